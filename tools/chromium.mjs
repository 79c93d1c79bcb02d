// Unpacks the browser that the tests run into node_modules/.chromium: `node tools/chromium.mjs`. Whoever imports this file
// is told where it is.
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const folder = fileURLToPath(new URL('../node_modules/.chromium/', import.meta.url));
mkdirSync(folder, { recursive: true });
// The package unpacks into the folder for temporary files. It brings the shared libraries that the browser needs only where
// it believes to be in a container without them; so it works on machines that lack them, and without root.
const temporary = process.env.TMPDIR;
process.env.TMPDIR = folder;
process.env.AWS_EXECUTION_ENV = 'AWS_Lambda_nodejs24.x';
const { default: chromium } = await import('@sparticuz/chromium');

export const executable = await chromium.executablePath();

delete process.env.AWS_EXECUTION_ENV;
if (temporary === undefined) delete process.env.TMPDIR;
else process.env.TMPDIR = temporary;
