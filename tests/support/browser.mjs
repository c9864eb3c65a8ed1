// Opens a page in a headless Chromium and prints, as JSON, what is wrong with it and what it does when it is used.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const [, , modules, page] = process.argv;
const require = createRequire(modules + '/');
const { chromium } = require('playwright-core');
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const RULES = { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'] };
const DESKTOP = { width: 1200, height: 900 }, PHONE = { width: 390, height: 844 };

const found = { console: [], requests: [], dead: [], links: [], violations: [], wide: [] };
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium-headless-shell', args: ['--no-sandbox', '--disable-dev-shm-usage'],
});
for (const [colorScheme, viewport] of [['light', DESKTOP], ['dark', DESKTOP], ['light', PHONE]]) {
  const tab = await browser.newPage({ colorScheme, viewport });
  tab.on('console', (message) => found.console.push(`${message.type()}: ${message.text()}`));
  tab.on('pageerror', (error) => found.console.push(`error: ${error.message}`));
  tab.on('dialog', (dialog) => found.console.push(`dialog: ${dialog.message()}`));
  tab.on('request', (request) => request.url() === page || found.requests.push(request.url()));
  await tab.goto(page);
  const samples = await tab.$('td button');
  if (samples) {
    await tab.waitForSelector('#climb-plot svg');
    await samples.evaluate((button) => button.click());
    await tab.waitForSelector('#distribution svg');
    await tab.evaluate(axe);
    found.violations.push(...await broken(tab, { include: ['dialog'] }));
    await tab.evaluate(() => document.getElementById('samples').close());
  }
  // All that is folded away is opened for it.
  await tab.evaluate(() => window.dispatchEvent(new Event('beforeprint')));
  await tab.waitForTimeout(500);
  await tab.evaluate(axe);
  found.violations.push(...await broken(tab));
  found.wide.push(await tab.evaluate(() => document.documentElement.scrollWidth - innerWidth));
  if (colorScheme === 'dark') continue;
  const hrefs = await tab.$$eval('a', (links) => links.map((link) => link.getAttribute('href')));
  found.links = hrefs.filter((href) => !href.startsWith('#'));
  const inside = hrefs.filter((href) => href.startsWith('#'));
  found.dead.push(...await tab.evaluate((all) => all.filter((href) => !document.getElementById(decodeURIComponent(href.slice(1)))), inside));
}

const tab = await browser.newPage({ viewport: DESKTOP });
await tab.goto(page);
found.tags = await tab.evaluate(() => {
  const tags = {};
  document.querySelectorAll('main *').forEach((element) => { tags[element.tagName] = (tags[element.tagName] || 0) + 1; });
  return tags;
});
found.marks = await tab.$$eval('#climb-plot svg .mark-symbol path', (paths) => paths.length).catch(() => 0);
const open = () => tab.$$eval('details.entry[open]', (entries) => entries.map((entry) => entry.id));
const shown = () => tab.$$eval('details.entry:not([hidden])', (entries) => entries.map((entry) => entry.id));
found.open = await open();
const row = await tab.$eval('tr[id]', (element) => element.id).catch(() => '');
await tab.evaluate((id) => { location.hash = id; }, row);
await tab.waitForTimeout(200);
found.opened = [row, await open()];
await tab.fill('#query', row.toLowerCase());
await tab.waitForTimeout(400);
found.searched = await shown();
await tab.fill('#query', '');
found.kinds = {};
for (const kind of await tab.$$eval('#kind option', (options) => options.map((option) => option.value).filter(Boolean))) {
  await tab.selectOption('#kind', kind);
  await tab.waitForTimeout(400);
  found.kinds[kind] = await tab.$$eval('details.entry:not([hidden]) tr[id]:not([hidden])', (rows) => rows.map((element) => element.id));
}
await tab.selectOption('#kind', '').catch(() => {});
await tab.evaluate(() => window.dispatchEvent(new Event('beforeprint')));
// Each plot of curves has its name once it is drawn: of each entry, one for each metric that its trials told.
await tab.waitForFunction(() => {
  const { names, lines, curves } = JSON.parse(document.getElementById('data').textContent);
  const wanted = Object.values(curves).map((own) => names.filter((name) => own.some(([id]) => lines[id][name])).length);
  return document.querySelectorAll('.curves[aria-label]').length === wanted.reduce((sum, count) => sum + count, 0);
});
found.curves = await tab.$$eval('.curves', (plots) => plots.map((plot) => [
  plot.closest('details').id, plot.getAttribute('aria-label'), plot.querySelectorAll('.mark-line path').length,
]));
if (process.env.SCREENSHOT) await tab.screenshot({ path: process.env.SCREENSHOT, fullPage: true });
await browser.close();
console.log(JSON.stringify(found));

async function broken(tab, where = undefined) {
  const result = await tab.evaluate(([context, rules]) => axe.run(context || document, rules), [where, RULES]);
  return result.violations.map((each) => `${each.id}: ${each.nodes.length} × ${each.nodes[0].html.slice(0, 200)}`);
}
