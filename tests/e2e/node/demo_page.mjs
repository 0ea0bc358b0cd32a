// The page of `wsgate demo` in a headless Chromium of a phone's width: Enter sends, the server is named, a drain moves the page to
// the other server, and what is said meanwhile arrives. Arguments: URL, a directory for the profile. Prints one JSON object.

import { launch } from "./chromium.mjs";

const [url, profile] = process.argv.slice(2);
const browser = await launch(profile);
try {
  const page = await browser.newPage();
  await page.setViewportSize({ width: 360, height: 640 });
  await page.goto(url);
  const server = () => page.textContent("#server");
  const isOn = (other) => page.waitForFunction((other) => /^127/.test(document.querySelector("#server").textContent)
    && document.querySelector("#server").textContent !== other, other, { timeout: 20_000 });
  const logged = (text) => page.waitForFunction((text) => document.querySelector("#log").textContent.includes(text), text,
    { timeout: 20_000 });
  await isOn("");
  const first = await server();
  const long = "x".repeat(500);
  await page.fill("#text", long);
  await page.press("#text", "Enter");
  await logged(`${first}: ${long}`);
  const left = await page.inputValue("#text");
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  await page.click("text=drain");
  await logged("closed: 1012");
  await page.fill("#text", "said while away");
  await page.press("#text", "Enter");
  await logged("you: said while away (sent when connected)");
  await isOn(first);
  const second = await server();
  await logged(`${second}: said while away`);
  console.log(JSON.stringify({ first, second, left, width }));
} finally {
  await browser.close();
}
