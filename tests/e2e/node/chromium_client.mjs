// Headless Chromium as a client: loads the page over plain HTTP from the very address whose WebSockets it tests.
// Arguments: base URL, bad frames as JSON, a directory for its profile. Prints the results as one JSON object.

import { chromium } from "playwright-core";

const [base, bad, profile] = [process.argv[2], JSON.parse(process.argv[3]), process.argv[4]];

const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  headless: true,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
try {
  const page = await browser.newPage();
  const answer = await page.goto(new URL("/page.html", base.replace("ws://", "http://")).href);
  if (answer.status() !== 200) throw new Error(`the page answered ${answer.status()}`);
  await page.waitForFunction(() => window.run !== undefined, undefined, { timeout: 10_000 });
  const results = await page.evaluate(([base, bad]) => window.run(base, bad), [base, bad]);
  console.log(JSON.stringify({ ...results, page: { title: await page.title() } }));
} finally {
  await browser.close();
}
