// Walks through a page (whose first cells have pictures) of `colora sweep` with the keyboard, in light and dark, wide and narrow, and looks for what
// axe-core calls barriers. Not a part of `cargo test`, because it needs a browser:
//   npm install playwright-core axe-core          (in some folder; NODE_PATH leads to its node_modules)
//   node tests/page/walk.mjs FOLDER/sweep.html SHOTS [CHROMIUM]
// Written with playwright-core 1.5x, axe-core 4.1x and Debian's chromium; screenshots are put into SHOTS.
import { createRequire } from "node:module";
import { mkdirSync } from "node:fs";
import { resolve } from "node:path";

const require = createRequire(process.env.NODE_PATH ? process.env.NODE_PATH + "/x.js" : import.meta.url);
const { chromium } = require("playwright-core");
const axe = require.resolve("axe-core/axe.min.js");
const [page_file, shots, program = "/usr/bin/chromium"] = process.argv.slice(2);
mkdirSync(shots, { recursive: true });
const failures = [];
const check = (what, good) => { console.log((good ? "ok    " : "FAILED ") + what); if (!good) failures.push(what); };

const browser = await chromium.launch({ executablePath: program, args: ["--no-sandbox"] });
for (const [name, width, height, scheme] of [
  ["wide-light", 1280, 800, "light"], ["wide-dark", 1280, 800, "dark"],
  ["narrow-light", 390, 844, "light"], ["narrow-dark", 390, 844, "dark"],
]) {
  // The page's policy keeps out what is put into it; the browser is told to let axe in.
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, bypassCSP: true });
  const page = await context.newPage();
  await page.goto("file://" + resolve(page_file));
  await page.screenshot({ path: `${shots}/${name}.png` });
  await page.addScriptTag({ path: axe });
  for (const state of ["tables", "zoom", "compare"]) {
    if (state === "zoom") { await page.locator("button.cell:has(img)").first().click(); await page.waitForTimeout(100); }
    if (state === "compare") {
      await page.keyboard.press("Escape");
      const cells = page.locator("button.cell:has(img)");
      await cells.nth(0).focus(); await page.keyboard.press("c");
      await cells.nth(1).focus(); await page.keyboard.press("c");
      await page.waitForTimeout(100);
    }
    await page.screenshot({ path: `${shots}/${name}-${state}.png` });
    const found = await page.evaluate(async () => (await axe.run()).violations.map((v) => v.id + ": " + v.nodes.map((n) => n.target).join(" ; ")));
    check(`${name} ${state}: axe finds nothing ${found.join(" | ")}`, found.length === 0);
  }
  await context.close();
}
if (process.env.AXE_ONLY) { await browser.close(); process.exit(failures.length > 0 ? 1 : 0); }

// With the page's own policy.
const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, acceptDownloads: true });
await context.grantPermissions(["clipboard-read", "clipboard-write"]).catch(() => {});
const page = await context.newPage();
const requests = [];
const errors = [];
page.on("request", (request) => { if (!/^(file|data|blob):/.test(request.url())) requests.push(request.url()); });
page.on("console", (message) => { if (message.type() === "error") errors.push(message.text()); });
page.on("pageerror", (error) => errors.push(String(error)));
await page.goto("file://" + resolve(page_file));
const shown = await page.$$eval("button.cell img", (all) => all.slice(0, 4).every((i) => i.complete && i.naturalWidth > 0));
check("pictures are shown", shown);
const focused = () => page.evaluate(() => document.activeElement?.dataset?.cell ?? document.activeElement?.id ?? document.activeElement?.tagName);
const cells = await page.locator("button.cell").count();
for (let i = 0; i < 40 && !/^\d+$/.test(await focused()); i++) await page.keyboard.press("Tab");
check("the tabulator leads to the first cell", (await focused()) === "0");
await page.keyboard.press("ArrowRight");
check("the right arrow leads to the next cell", (await focused()) === "1");
await page.keyboard.press("ArrowDown");
const below = Number(await focused());
check("the down arrow leads to the cell below", below > 1 && below < cells);
await page.keyboard.press("ArrowUp");
check("the up arrow leads back", (await focused()) === "1");
await page.keyboard.press("b");
check("b chooses", (await page.locator("#count").textContent()) === "1 chosen");
await page.keyboard.press("Enter");
check("Enter opens the picture", await page.locator("#zoom").evaluate((d) => d.open));
check("with its command", (await page.locator("#command").textContent()).startsWith("colora generate"));
await page.locator("#copy").click();
const copied = await page.evaluate(() => navigator.clipboard.readText()).catch(() => "");
check("the command is copied", copied === (await page.locator("#command").textContent()));
await page.locator("#zoom [data-zoom='4']").click();
const large = await page.locator("#view img").evaluate((i) => i.clientWidth / i.naturalWidth);
check("400 % is four times as large", Math.abs(large - 4) < 0.01);
await page.keyboard.press("ArrowRight");
check("the right arrow shows the next one", (await page.locator("#name").textContent()).length > 0);
await page.keyboard.press("Escape");
check("Escape closes", !(await page.locator("#zoom").evaluate((d) => d.open)));
check("and leads back to the cell that was shown", (await focused()) === "2");
await page.reload();
check("a choice is kept", (await page.locator("#count").textContent()) === "1 chosen");
await page.locator("#only").check();
check("only the chosen are listed", (await page.locator("#list button.cell").count()) === 1);
await page.locator("#only").uncheck();
await page.locator("#order").selectOption("seconds");
check("every picture is in another order", (await page.locator("#list button.cell").count()) === cells);
await page.locator("#order").selectOption("place");
const [download] = await Promise.all([page.waitForEvent("download"), page.locator("#save").click()]);
check("the choice is saved", download.suggestedFilename() === "chosen.json");
await page.evaluate(() => { const s = document.createElement("script"); s.textContent = "window.broken = 1"; document.body.append(s); const i = document.createElement("img"); i.src = "https://example.invalid/x.png"; document.body.append(i); });
await page.waitForTimeout(200);
check("the policy keeps out other scripts", (await page.evaluate(() => window.broken)) === undefined);
check("no host is asked " + requests.filter((r) => !r.includes("example.invalid")).join(" "), requests.every((r) => r.includes("example.invalid")));
check("nothing is wrong " + errors.filter((e) => !/policy/i.test(e)).join(" | "), errors.every((e) => /policy/i.test(e)));
await browser.close();
if (failures.length > 0) { console.error(`${failures.length} failed`); process.exit(1); }
