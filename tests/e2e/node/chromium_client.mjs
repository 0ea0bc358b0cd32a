// Headless Chromium as a client: loads the page over plain HTTP, or HTTPS, from the very address whose WebSockets it tests.
// Arguments: base URL, bad frames as JSON, a directory for its profile. Prints the results as one JSON object.

import { launch } from "./chromium.mjs";

const [base, bad, profile] = [process.argv[2], JSON.parse(process.argv[3]), process.argv[4]];

const browser = await launch(profile);
try {
  const page = await browser.newPage();
  const answer = await page.goto(new URL("/page.html", base.replace(/^ws/, "http")).href);
  if (answer.status() !== 200) throw new Error(`the page answered ${answer.status()}`);
  await page.waitForFunction(() => window.run !== undefined, undefined, { timeout: 10_000 });
  const results = await page.evaluate(([base, bad]) => window.run(base, bad), [base, bad]);
  console.log(JSON.stringify({ ...results, page: { title: await page.title() } }));
} finally {
  await browser.close();
}
