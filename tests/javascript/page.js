// What a page does with a gateway, with @connectrpc/connect-web and the contract alone: unary, stream, cancels and an error.
// The gateway's address is the page's query. `calls` is what came of them, in the end.
import { createFileRegistry, fromBinary } from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, createClient } from '@connectrpc/connect';
import { createGrpcWebTransport } from '@connectrpc/connect-web';

const POLICY_DETACH = 3;
const contract = new Uint8Array(await (await fetch('contract.binpb')).arrayBuffer());
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, contract));
const client = createClient(
  registry.getService('tokenrelay.v1.GenerationService'),
  createGrpcWebTransport({ baseUrl: location.search.slice(1) }),
);

function spec(maxTokens) {
  const prompt = { case: 'text', value: 'hello from a page' };
  return { prompt, samplingParams: { maxTokens, temperature: 0, ignoreEos: true } };
}

async function unary() {
  const { generation } = await client.generate({ spec: spec(8) });
  const [choice] = generation.choices;
  return { state: generation.state, tokens: choice.tokenIds, text: choice.text };
}

async function stream() {
  const events = [];
  const tokens = [];
  for await (const { event } of client.generateStream({ spec: spec(8) })) {
    events.push(event.event.case);
    if (event.event.case === 'delta') tokens.push(...event.event.value.tokenIds);
  }
  return { events, tokens };
}

async function cancel() {
  let id;
  let state;
  try {
    for await (const { event } of client.generateStream({ spec: spec(50000), onDisconnect: POLICY_DETACH })) {
      if (event.event.case === 'accepted') id = event.event.value.generationId;
      if (event.event.case === 'delta' && state === undefined) {
        ({ state } = await client.cancelGeneration({ generationId: id }));
      }
    }
  } catch (error) {
    return { state, ...told(error) };
  }
  throw new Error('the stream ended well');
}

async function leave() {
  const leaving = new AbortController();
  let id;
  try {
    for await (const { event } of client.generateStream({ spec: spec(50000) }, { signal: leaving.signal })) {
      if (event.event.case === 'accepted') id = event.event.value.generationId;
      if (event.event.case === 'delta') leaving.abort();
    }
  } catch (error) {
    return { id, ...told(error) };
  }
  throw new Error('the stream ended well');
}

async function fail() {
  try {
    await client.generate({});
  } catch (error) {
    return told(error);
  }
  throw new Error('a request without a spec is answered');
}

function told(error) {
  const { code, rawMessage } = ConnectError.from(error);
  const info = ConnectError.from(error).findDetails(registry.getMessage('google.rpc.ErrorInfo'));
  return { code: Code[code], message: rawMessage, reasons: info.map(({ reason }) => reason) };
}

async function all() {
  const models = await fetch(new URL('/v1/models', location.search.slice(1)));
  return {
    models: await models.json(),
    unary: await unary(),
    stream: await stream(),
    cancel: await cancel(),
    leave: await leave(),
    fail: await fail(),
  };
}

window.calls = all().catch((error) => ({ broken: String(error) }));
