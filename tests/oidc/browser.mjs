// Logs in by the provider in headless Chromium, looks at the page, logs out. The provider and the page are two sites.
// In: BASE (address of the page), ISSUER, SHOTS (folder for screenshots), GROUPS_FILE (what the provider reads). Out: exit status.
import { chromium } from "playwright-core";
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

const { BASE, ISSUER, SHOTS, GROUPS_FILE } = process.env;
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
const query = "/?query=" + encodeURIComponent('{service="shop"}') + "&range=15m";

// The provider's own forms: name and password, then consent.
async function logIn(page, user) {
  await page.getByRole("link", { name: "Log in with localhost" }).click();
  await page.waitForURL(`${ISSUER}/**`);
  await page.locator("input[name=login]").fill(user);
  await page.locator("input[name=password]").fill("whatever");
  await page.getByRole("button", { name: "Sign-in" }).click();
  await page.getByRole("button", { name: "Continue" }).click();
}

async function person(work) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  const page = await context.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(String(error)));
  await work(page, context);
  assert.deepEqual(faults, []);
  await context.close();
}

try {
  await person(async (page, context) => {
    await page.goto(BASE + query);
    assert.equal(new URL(page.url()).pathname, "/login");
    assert.equal(await page.locator("input[name=password]").count(), 0, "there are no passwords");
    await page.screenshot({ path: `${SHOTS}/login.png` });
    let callback = "";
    page.on("request", (request) => {
      if (request.url().startsWith(`${BASE}/login/oidc/callback`)) callback ||= request.url();
    });
    await logIn(page, "ann");
    await page.waitForURL(BASE + query);
    await page.locator("#lines li", { hasText: "checkout failed" }).waitFor({ timeout: 10000 });
    assert.equal(await page.locator("#lines li").count(), 2, "all streams");
    assert.match(await page.locator("form.session").innerText(), /oidc:ann/);
    await page.screenshot({ path: `${SHOTS}/page.png` });

    const cookies = await context.cookies();
    const session = cookies.find((cookie) => cookie.name === "millrace_session");
    assert.deepEqual([session.sameSite, session.httpOnly], ["Strict", true]);
    assert.equal(cookies.find((cookie) => cookie.name === "millrace_login"), undefined, "its work is done");

    // The callback once more: refused, and the session goes on.
    await page.goto(callback);
    await page.getByText("this login can't be completed").waitFor();
    await page.goto(BASE + query);
    await page.locator("#lines li", { hasText: "checkout failed" }).waitFor({ timeout: 10000 });

    await page.getByRole("button", { name: "Log out" }).click();
    await page.getByText("You are logged out.").waitFor();
    await page.screenshot({ path: `${SHOTS}/logged-out.png` });
    // Whoever has kept the cookie gets nowhere.
    await context.addCookies([session]);
    await page.goto(BASE + query);
    assert.equal(new URL(page.url()).pathname, "/login");

    // The provider still knows its user, until they log out there too.
    await page.getByRole("link", { name: "Log in with localhost" }).click();
    await page.waitForURL(BASE + query);
    await page.getByRole("button", { name: "Log out" }).click();
    await page.getByRole("link", { name: "Log out at localhost too" }).click();
    await page.getByRole("button", { name: "Yes, sign me out" }).click();
    await page.goto(BASE + query);
    await page.getByRole("link", { name: "Log in with localhost" }).click();
    await page.locator("input[name=login]").waitFor();
  });

  // A forced selector.
  await person(async (page) => {
    await page.goto(BASE + query);
    await logIn(page, "pat");
    await page.waitForURL(BASE + query);
    await page.locator("#lines li", { hasText: "card declined" }).waitFor({ timeout: 10000 });
    assert.equal(await page.locator("#lines li").count(), 1, "the streams of the selector only");
  });

  // Groups that change while somebody is logged in: they count when the session is renewed, without a question.
  await person(async (page, context) => {
    await page.goto(BASE + query);
    await logIn(page, "rita");
    await page.waitForURL(BASE + query);
    await page.locator("#lines li", { hasText: "checkout failed" }).waitFor({ timeout: 10000 });
    assert.equal(await page.locator("#lines li").count(), 2, "all streams");
    const groups = JSON.parse(readFileSync(GROUPS_FILE, "utf8"));
    writeFileSync(GROUPS_FILE, JSON.stringify({ ...groups, rita: ["pay"] }));
    // A live tail goes on by itself over the renewal.
    await page.getByRole("button", { name: "Live tail" }).click();
    await page.getByText("Live: new lines appear on top").waitFor({ timeout: 10000 });
    const asked = await page.waitForRequest((one) => one.url().startsWith(`${ISSUER}/auth?`), { timeout: 120000 });
    assert.match(asked.url(), /[?&]prompt=none(&|$)/);
    await page.waitForURL((url) => url.origin === BASE && url.pathname === "/" && url.searchParams.get("tail") === "1");
    await page.getByText("Live: new lines appear on top").waitFor({ timeout: 10000 });
    await page.goto(BASE + query);
    await page.locator("#lines li", { hasText: "card declined" }).waitFor({ timeout: 10000 });
    assert.equal(await page.locator("#lines li").count(), 1, "the streams of the other group only");
    // Logged out at the provider alone: the login page, once.
    await context.clearCookies({ domain: "localhost" });
    await sleep(61000);
    await page.goto(BASE + query);
    await page.getByRole("link", { name: "Log in with localhost" }).waitFor();
    assert.equal(new URL(page.url()).pathname, "/login");
  });

  // Sessions that are due while the page is open.
  await person(async (page) => {
    await page.addInitScript(() => {
      const Plain = WebSocket;
      window.sockets = [];
      window.WebSocket = class extends Plain { constructor(...given) { super(...given); window.sockets.push(this); } };
    });
    const renewed = () => page.waitForRequest((one) => one.url().startsWith(`${ISSUER}/auth?`), { timeout: 90000 });
    const box = page.getByRole("textbox", { name: /^Search/ });
    const line = (text) => page.locator("#lines li", { hasText: text });
    const asksToRenew = () => page.getByText("The login has to be renewed").waitFor({ timeout: 90000 });
    const isLive = () => page.getByText("Live: new lines appear on top").waitFor({ timeout: 10000 });
    await page.goto(BASE + query);
    await logIn(page, "sam");
    await page.waitForURL(BASE + query);
    // Left alone it renews itself, as its alerts would stay as they were.
    assert.match((await renewed()).url(), /[?&]prompt=none(&|$)/);
    await page.waitForURL(BASE + query);
    await line("checkout failed").waitFor({ timeout: 10000 });
    // Text that was not sent yet stays. The form renews the session on its way.
    await box.fill("declined");
    await asksToRenew();
    assert.equal(await box.inputValue(), "declined");
    let asked = renewed();
    await page.getByRole("button", { name: "Search" }).click();
    await asked;
    await line("card declined").waitFor({ timeout: 10000 });
    assert.equal(new URL(page.url()).searchParams.get("query"), "declined");
    // So does the button of the live tail.
    await box.fill("checkout");
    await asksToRenew();
    asked = renewed();
    await page.getByRole("button", { name: "Live tail" }).click();
    await asked;
    const began = Date.now();
    await isLive();
    const at = new URL(page.url()).searchParams;
    assert.deepEqual([at.get("query"), at.get("tail"), at.get("since")], ["checkout", "1", null]);
    // A connection that the server refuses since the session is due, in a window that nobody looks at. The server looks
    // every 30 s whether a login goes on: the tail begins anew, so that it is not the first to see it.
    await page.evaluate(() => Object.defineProperty(document, "hidden", { value: true }));
    await sleep(15000);
    await page.getByRole("button", { name: "Stop tail" }).click();
    await page.getByRole("button", { name: "Live tail" }).click();
    await isLive();
    await sleep(Math.max(0, began + 63000 - Date.now()));
    asked = renewed();
    await page.evaluate(() => window.sockets.at(-1).close());
    await asked;
    await isLive();
    assert.equal(new URL(page.url()).searchParams.get("tail"), "1");
  });

  // Somebody without a group that has an entry; what the provider refuses is shown.
  await person(async (page) => {
    await page.goto(BASE);
    await logIn(page, "mallory");
    await page.getByText("none of your groups has an entry").waitFor();
    await page.goto(BASE);
    assert.equal(new URL(page.url()).pathname, "/login");
    await page.screenshot({ path: `${SHOTS}/refused.png` });
  });
  await person(async (page) => {
    await page.goto(BASE);
    await page.getByRole("link", { name: "Log in with localhost" }).click();
    await page.getByRole("link", { name: "Cancel" }).click();
    await page.getByText("the login provider refused: access_denied").waitFor();
  });
} finally {
  await browser.close();
}
