// A client in another language: unary, stream, cancels and an error with @grpc/grpc-js and the protos alone.
// Usage: node client.js TARGET PROTOS GOOGLE_PROTOS [CA [KEY CERTIFICATE]]. With a CA it speaks TLS, with a key and a
// certificate it shows its own. Prints what it got as JSON, one object a line.
'use strict';

const fs = require('fs');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [target, protos, googleProtos, ...tlsFiles] = process.argv.slice(2);
const definition = loader.loadSync('tokenrelay/v1/generation_service.proto', {
  includeDirs: [protos, googleProtos],
  longs: Number,
  enums: String,
  oneofs: true,
});
const { GenerationService } = grpc.loadPackageDefinition(definition).tokenrelay.v1;
const credentials = tlsFiles.length
  ? grpc.credentials.createSsl(...tlsFiles.map((file) => fs.readFileSync(file)))
  : grpc.credentials.createInsecure();
const client = new GenerationService(target, credentials);

function print(what, value) {
  console.log(JSON.stringify({ what, ...value }));
}

function spec(maxTokens) {
  return { text: 'hello from javascript', samplingParams: { maxTokens, temperature: 0, ignoreEos: true } };
}

function unary() {
  return new Promise((resolve, reject) => {
    client.generate({ spec: spec(8) }, (error, response) => {
      if (error) return reject(error);
      const { state, choices, usage } = response.generation;
      print('unary', { state, tokens: choices[0].tokenIds, text: choices[0].text, usage });
      return resolve();
    });
  });
}

function stream() {
  return new Promise((resolve, reject) => {
    const events = [];
    const tokens = [];
    const call = client.generateStream({ spec: spec(8) });
    call.on('data', ({ event }) => {
      events.push(event.event);
      if (event.delta) tokens.push(...event.delta.tokenIds);
    });
    call.on('error', reject);
    call.on('end', () => {
      print('stream', { events, tokens });
      resolve();
    });
  });
}

function cancel() {
  return new Promise((resolve, reject) => {
    let id = '';
    let asked = false;
    const call = client.generateStream({ spec: spec(50000), onDisconnect: 'DISCONNECT_POLICY_DETACH' });
    call.on('data', ({ event }) => {
      if (event.accepted) id = event.accepted.generationId;
      if (event.delta && !asked) {
        asked = true;
        client.cancelGeneration({ generationId: id }, (error, response) => {
          if (error) reject(error);
          else print('cancel', { state: response.state });
        });
      }
    });
    call.on('error', (error) => {
      print('cancelled', { code: error.code, message: error.details });
      resolve();
    });
    call.on('end', () => reject(new Error('the stream ended well')));
  });
}

function leave() {
  return new Promise((resolve, reject) => {
    let id = '';
    const call = client.generateStream({ spec: spec(50000) });
    call.on('data', ({ event }) => {
      if (event.accepted) id = event.accepted.generationId;
      if (event.delta) call.cancel();
    });
    call.on('error', (error) => {
      print('left', { code: error.code, id });
      resolve();
    });
    call.on('end', () => reject(new Error('the stream ended well')));
  });
}

function fail() {
  return new Promise((resolve, reject) => {
    client.generate({}, (error) => {
      if (!error) return reject(new Error('a request without a spec is answered'));
      const [status] = error.metadata.get('grpc-status-details-bin');
      print('failed', { code: error.code, message: error.details, status: status.toString('base64') });
      return resolve();
    });
  });
}

unary()
  .then(stream)
  .then(cancel)
  .then(leave)
  .then(fail)
  .then(() => client.close())
  .catch((error) => {
    console.error(error);
    process.exit(1);
  });
