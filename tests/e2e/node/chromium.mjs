// Headless Chromium, driven by Playwright; its profile is a directory.

import { chromium } from "playwright-core";

export const launch = (profile) =>
  chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: [
      "--no-sandbox",
      // The certificates of the tests are their own.
      "--ignore-certificate-errors",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
