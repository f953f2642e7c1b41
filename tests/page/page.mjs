// Drives the page in headless Chromium: search, a new line in live tail, an alert's state; narrow and wide, light and dark.
// In: BASE (address of the page), SHOTS (folder for screenshots), FILE (a tailed file to append to). Out: exit status.
import { chromium } from "playwright-core";
import { appendFileSync } from "node:fs";
import assert from "node:assert/strict";

const { BASE, SHOTS, FILE } = process.env;
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
  const faults = [];
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("console", (message) => message.type() === "error" && faults.push(message.text()));
  page.on("request", (request) => request.url().startsWith(BASE) || request.url().startsWith("data:")
    || faults.push(`asked another host: ${request.url()}`));

  await page.goto(BASE);
  await page.getByRole("textbox", { name: "Query in LogQL" }).fill('{service="writer"} |= "needle"');
  await page.getByRole("button", { name: "Search" }).click();
  await page.locator("#lines li", { hasText: "needle in the hay" }).waitFor({ timeout: 10000 });
  assert.equal(await page.locator("#lines li").count(), 1, "only the line with the word");
  assert.match(await page.locator("#lines li").first().innerText(), /service=writer/);
  assert.ok(await page.locator(".histogram rect").count() >= 1, "the histogram has a bar");
  await page.screenshot({ path: `${SHOTS}/search-wide.png` });

  await page.getByRole("button", { name: "Live tail" }).click();
  await page.getByRole("button", { name: "Stop tail" }).waitFor();
  appendFileSync(FILE, "a second needle, written now\n");
  await page.locator("#lines li", { hasText: "written now" }).waitFor({ timeout: 10000 });
  appendFileSync(FILE, "<b>needle</b> & not markup\n");
  await page.locator("#lines li", { hasText: "<b>needle</b> & not markup" }).waitFor({ timeout: 10000 });
  assert.equal(await page.locator("#lines b", { hasText: "needle" }).count(), 0, "lines are never markup");
  await page.getByRole("button", { name: "Stop tail" }).click();

  await page.locator(".alert.firing", { hasText: "NeedleFound" }).waitFor({ timeout: 20000 });
  await page.screenshot({ path: `${SHOTS}/tail-wide.png` });

  await page.goto(`${BASE}/?query=${encodeURIComponent('{service="writer"')}`);
  assert.match(await page.locator(".error").innerText(), /expected|parse error/);

  for (const [name, options] of Object.entries({
    "narrow": { viewport: { width: 390, height: 800 } },
    "dark": { viewport: { width: 1280, height: 800 }, colorScheme: "dark" },
  })) {
    const other = await browser.newPage(options);
    await other.goto(`${BASE}/?query=${encodeURIComponent('{service="writer"}')}&range=5m`);
    await other.locator("#lines li").first().waitFor({ timeout: 10000 });
    const wide = await other.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
    assert.equal(wide, false, `${name}: nothing reaches beyond the side`);
    await other.screenshot({ path: `${SHOTS}/${name}.png` });
  }
  assert.deepEqual(faults, []);
  console.log("page: all seen");
} finally {
  await browser.close();
}
