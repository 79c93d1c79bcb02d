// Opens a page in Chromium and prints what its `calls` come to, as JSON, with what the browser complained of meanwhile.
// Usage: node browser.mjs URL [KEY]. KEY is the SHA-256 of a public key in base64; certificates with it are trusted.
import { chromium } from 'playwright-core';
import { executable } from '../../tools/chromium.mjs';

const [url, key] = process.argv.slice(2);
// Chromium's own sandbox needs rights that a container seldom gives; the page is ours.
const args = ['--no-sandbox', '--disable-dev-shm-usage'];
if (key) args.push(`--ignore-certificate-errors-spki-list=${key}`);
const browser = await chromium.launch({ executablePath: executable, args });
const complaints = [];
try {
  const page = await browser.newPage();
  page.on('console', (message) => complaints.push(message.text()));
  page.on('pageerror', (error) => complaints.push(String(error)));
  await page.goto(url);
  await page.waitForFunction(() => window.calls !== undefined);
  const calls = await page.evaluate(() => window.calls);
  console.log(JSON.stringify({ calls, complaints, version: browser.version() }, (_, value) =>
    typeof value === 'bigint' ? Number(value) : value,
  ));
} finally {
  await browser.close();
}
