// Drives the page in headless Chromium: search by LogQL and by words, live tail that loses its server, an alert and its
// link; narrow and wide, light and dark, UTC and local time, without a mouse.
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
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, timezoneId: "Asia/Kolkata" });
  const page = await context.newPage();
  const faults = [];
  let expected = null; // a fault that the test makes itself
  const fault = (text) => expected?.test(text) || faults.push(text);
  page.on("pageerror", (error) => fault(String(error)));
  page.on("console", (message) => message.type() === "error" && fault(message.text()));
  page.on("request", (request) => request.url().startsWith(BASE) || request.url().startsWith("data:")
    || faults.push(`asked another host: ${request.url()}`));
  let tails = [];
  await page.routeWebSocket(/\/tail/, (socket) => { socket.connectToServer(); tails.push(socket); });

  const box = page.getByRole("textbox", { name: /^Search/ });
  const line = (text) => page.locator("#lines li", { hasText: text });
  const status = page.locator("#status");

  // A search in LogQL: labels once, the word highlighted, UTC.
  await page.goto(BASE);
  await box.fill('{service="writer"} |= "needle"');
  await page.getByRole("button", { name: "Search" }).click();
  await line("needle in the hay").waitFor({ timeout: 10000 });
  assert.equal(await page.locator("#lines li").count(), 1, "only the line with the word");
  assert.match(await page.locator("#common").innerText(), /Labels of all lines:.*service=writer/s);
  assert.doesNotMatch(await line("needle in the hay").innerText(), /service=writer/);
  assert.equal(await page.locator("#lines mark").innerText(), "needle");
  assert.ok(await page.locator(".histogram rect").count() >= 1, "the histogram has a bar");
  await page.screenshot({ path: `${SHOTS}/search-wide.png` });

  // UTC is said; local time can be chosen, and stays.
  const utc = await page.locator("#lines time").first().innerText();
  assert.match(await page.locator("#zone-line").innerText(), /Times are UTC/);
  await page.getByRole("button", { name: "Show local time" }).click();
  assert.match(await page.locator("#zone-line").innerText(), /local time \(UTC\+05:30\)/);
  const local = await page.locator("#lines time").first().innerText();
  assert.notEqual(local, utc);
  await page.reload();
  assert.equal(await page.locator("#lines time").first().innerText(), local, "the choice is kept");
  await page.locator("main").press("z");
  assert.equal(await page.locator("#lines time").first().innerText(), utc);

  // Words alone, and how many there are.
  await box.fill("straw");
  await box.press("Enter");
  await line("straw 299").waitFor({ timeout: 10000 });
  assert.match(await page.locator(".count", { hasText: "Newest" }).innerText(), /Newest 200 of 300 lines/);
  await page.getByRole("link", { name: "up to 2,000 lines" }).click();
  await line("straw 0").first().waitFor({ timeout: 10000 });
  assert.equal(await page.locator("#lines li").count(), 300);

  // Live tail starts clean, with the query in the box and in the address.
  await box.fill("a second needle");
  await page.getByRole("button", { name: "Live tail" }).click();
  await page.getByRole("button", { name: "Stop tail" }).waitFor();
  await status.filter({ hasText: "Live: new lines appear on top. 0 lines so far" }).waitFor({ timeout: 10000 });
  assert.equal(await page.locator("#lines li").count(), 0, "it starts clean");
  assert.equal(await page.locator(".histogram").count(), 0);
  assert.equal(new URL(page.url()).searchParams.get("query"), "a second needle");
  assert.equal(new URL(page.url()).searchParams.get("tail"), "1");
  appendFileSync(FILE, "a second needle, written now\n");
  await line("written now").waitFor({ timeout: 10000 });
  appendFileSync(FILE, "<b>a second needle</b> & not markup\n");
  await line("<b>a second needle</b> & not markup").waitFor({ timeout: 10000 });
  assert.equal(await page.locator("#lines b", { hasText: "needle" }).count(), 0, "lines are never markup");
  await page.screenshot({ path: `${SHOTS}/tail-wide.png` });

  // It says that the server was lost, comes back, and shows what came meanwhile, each line once.
  await tails.at(-1).close({ code: 1001, reason: "server is stopping" });
  await status.filter({ hasText: /lost the connection to the server at .* \(server is stopping\)\. Retrying/ }).waitFor();
  appendFileSync(FILE, "a second needle, written while away\n");
  await status.filter({ hasText: "reconnected at" }).waitFor({ timeout: 15000 });
  await line("written while away").waitFor({ timeout: 10000 });
  assert.equal(await page.locator("#lines li").count(), 3, "each line once");
  await page.getByRole("button", { name: "Stop tail" }).click();
  await status.filter({ hasText: /Live tail stopped at .*3 lines received/ }).waitFor();
  assert.equal(new URL(page.url()).searchParams.get("tail"), null);

  // It says why it can't follow a query.
  expected = /400 \(Bad Request\)/;
  await box.fill('sum(rate({service="writer"}[1m]))');
  await page.getByRole("button", { name: "Live tail" }).click();
  await status.filter({ hasText: "Live tail failed: live tail follows lines" }).waitFor();
  expected = null;

  // The address of a live tail starts it again.
  await page.goto(`${BASE}/?query=${encodeURIComponent('{service="writer"}')}&tail=1`);
  await status.filter({ hasText: "Live:" }).waitFor({ timeout: 10000 });
  await page.getByRole("button", { name: "Stop tail" }).click();

  // An alert, and the lines behind it.
  await page.locator(".alert.firing", { hasText: "NeedleFound" }).waitFor({ timeout: 20000 });
  await page.locator("#badge", { hasText: "1 firing" }).waitFor();
  await page.locator(".alert", { hasText: "NeedleFound" }).getByRole("link").click();
  await line("needle in the hay").waitFor({ timeout: 10000 });
  assert.match(await page.locator(".note").innerText(), /From the alert NeedleFound.*It is firing since/s);
  assert.equal(await page.locator("#lines li", { hasText: "straw" }).count(), 0);
  await page.screenshot({ path: `${SHOTS}/alert-wide.png` });

  // Without a mouse.
  await page.goto(BASE);
  await page.locator("main").press("/");
  await page.keyboard.type("needle in the hay");
  await page.keyboard.press("Enter");
  await line("needle in the hay").waitFor({ timeout: 10000 });

  await page.goto(`${BASE}/?query=${encodeURIComponent('{service="writer"')}`);
  assert.match(await page.locator(".error").innerText(), /expected|parse error/);

  for (const [name, options] of Object.entries({
    "narrow": { viewport: { width: 390, height: 800 } },
    "narrow-dark": { viewport: { width: 320, height: 640 }, colorScheme: "dark" },
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
