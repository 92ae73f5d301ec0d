// The pages of `remask serve` in a real browser, over the built program and the bundled model.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';

const program = process.env.REMASK ?? fileURLToPath(new URL('../../target/debug/remask', import.meta.url));
const causal = fileURLToPath(new URL('../../models/tales-ar-7m', import.meta.url));
const KEY = 'a key of this test';

let server;
let url;
let browser;

before(async () => {
  const models = ['--model', 'tales-33m', '--model', `causal=${causal}`];
  server = spawn(program, ['serve', '--port', '0', '--backend', 'cpu', '--api-key', KEY, ...models], { stdio: ['ignore', 'ignore', 'pipe'] });
  const said = [];
  await new Promise((ready, failed) => {
    server.on('error', failed);
    server.on('exit', () => failed(new Error(`remask serve ended:\n${said.join('\n')}`)));
    createInterface({ input: server.stderr }).on('line', (line) => {
      said.push(line);
      url = /^listening: (http:\S+)/.exec(line)?.[1] ?? url;
      if (line.startsWith('ready:')) ready();
    });
  });
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
});

after(async () => {
  await browser?.close();
  server?.removeAllListeners('exit');
  server?.kill('SIGKILL');
});

/** A page in a context of its own, whose key is known unless it shall not be. */
async function open(path, { key = KEY, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 850 }, ...options });
  const page = await context.newPage();
  page.said = [];
  page.on('console', (message) => { if (message.type() === 'error') page.said.push(message.text()); });
  page.on('pageerror', (error) => page.said.push(String(error)));
  page.asked = [];
  page.on('request', (request) => page.asked.push(request.url()));
  if (key) await page.addInitScript((value) => sessionStorage.setItem('remask-key', value), key);
  await page.goto(`${url}${path}`);
  if (key && path === '/playground') await page.waitForSelector('#state[data-state=ready]');
  return page;
}

/** Closes a page that has asked nobody else, and met no error but those of answers with `status`. */
async function close(page, status) {
  assert.deepEqual(page.asked.filter((to) => !to.startsWith(url)), []);
  assert.deepEqual(page.said.filter((line) => !(status && line.includes(`status of ${status}`))), []);
  await page.context().close();
}

/** Sets fields of the settings by name. */
const set = (page, values) => page.evaluate((all) => {
  const { elements } = document.querySelector('#settings');
  for (const [name, value] of Object.entries(all)) {
    if (typeof value === 'boolean') elements[name].checked = value;
    else elements[name].value = value;
  }
}, values);

const say = async (page, words) => {
  await page.fill('#prompt', words);
  await page.press('#prompt', 'Enter');
};

async function metric(name, label = '') {
  const text = await (await fetch(`${url}/metrics`)).text();
  const lines = text.split('\n').filter((line) => line.startsWith(`${name}{`) && line.includes(label));
  return lines.reduce((sum, line) => sum + Number(line.split(' ').pop()), 0);
}

async function until(what) {
  for (let tries = 0; tries < 400; tries += 1) {
    if (await what()) return;
    await new Promise((done) => { setTimeout(done, 25); });
  }
  assert.fail('it has not happened');
}

test('browsers find the page, and it asks for the key', async () => {
  const page = await open('/', { key: null });
  assert.equal(page.url(), `${url}/playground`);
  await page.waitForSelector('#state[data-state=closed]');
  await page.fill('#key', 'wrong');
  await page.press('#key', 'Enter');
  await say(page, 'Hello');
  assert.match(await page.textContent('.problem'), /a valid API key is needed.*401.*invalid_api_key/s);
  assert.equal(await page.inputValue('#prompt'), 'Hello');
  await page.fill('#key', KEY);
  await page.press('#key', 'Tab');
  await page.waitForSelector('#state[data-state=ready]');
  assert.deepEqual(await page.$$eval('#model option', (all) => all.map((one) => one.value)), ['tales-33m', 'causal']);
  assert.deepEqual(await page.evaluate(() => [{ ...sessionStorage }, localStorage.length]), [{ 'remask-key': KEY }, 0]);
  await close(page, 401);
});

test('a chat is answered on a canvas that can be played again', async () => {
  const page = await open('/playground');
  const fields = { max_tokens: '40', preset: 'fast', block_length: '8', temperature: '0.8', seed: '4', system: 'Be brief.' };
  await set(page, { ...fields, more: '{"ignore_eos": true}', slow: true });
  await say(page, 'Write a story about a lost kite.');
  await page.waitForSelector('.model .cells:has(> .done):has(> .open):has(> .hole)');
  await set(page, { slow: false });
  await page.waitForSelector('.model[data-state=done]');
  const body = { model: 'tales-33m', max_tokens: 40, temperature: 0.8, seed: 4, ignore_eos: true, remask: { preset: 'fast', block_length: 8 } };
  body.messages = [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: 'Write a story about a lost kite.' }];
  const ask = async () => {
    const headers = { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' };
    const answer = await (await fetch(`${url}/v1/chat/completions`, { method: 'POST', headers, body: JSON.stringify(body) })).json();
    return answer.choices[0].message.content;
  };
  const plain = await ask();
  assert.equal(await page.textContent('#said'), plain, 'the same text as without the page');
  assert.equal(await page.$eval('.model .cells', (cells) => [...cells.children].filter((c) => !c.hidden && !c.matches('.special')).map((c) => c.textContent).join('')), plain);
  assert.match(await page.textContent('.model .foot'), /\d+ tokens · \d+ passes · .* of full compute/);
  // Back to the first pass, by hand, and forward by itself.
  const decided = await page.$$eval('.model .done', (all) => all.length);
  await page.focus('.model input[type=range]');
  await page.keyboard.press('Home');
  assert.equal(await page.$$eval('.model .done', (all) => all.length), 0);
  await page.click('.model .play');
  await until(async () => (await page.$$eval('.model .done', (all) => all.length)) === decided);
  // What is under the pointer, or chosen with the keys.
  await page.hover('.model .done');
  assert.match(await page.textContent('#tip'), /p [\d.]+ %.*committed in pass \d+/);
  await page.mouse.move(0, 0);
  await page.focus('.model .cells');
  await page.keyboard.press('ArrowRight');
  await page.keyboard.press('ArrowRight');
  assert.match(await page.textContent('#tip'), /^2: /);
  // The next question has the first one and its answer before it.
  const sent = page.waitForRequest((request) => request.url().endsWith('/v1/chat/completions'));
  await say(page, 'And then?');
  const { messages } = (await sent).postDataJSON();
  assert.deepEqual(messages.slice(1), [body.messages[1], { role: 'assistant', content: plain }, { role: 'user', content: 'And then?' }]);
  await page.waitForSelector('.model >> nth=1');
  await page.waitForSelector('#talk li:last-child[data-state=done]');
  assert.ok(Number(await page.textContent('#passes').then((text) => text.replace(/,/g, ''))) > 0);
  await close(page);
});

test('what was decided and is looked at again shows it', async () => {
  const page = await open('/playground');
  await set(page, { max_tokens: '32', preset: 'fast', accept: 'threshold:0.2', revise: 'verify:0.9,2' });
  await say(page, 'Tell me about a dog.');
  await page.waitForSelector('.model[data-state=done]');
  const passes = Number(await page.getAttribute('.model input[type=range]', 'max'));
  let again = 0;
  for (let pass = passes; pass > 0; pass -= 1) {
    await page.focus('.model input[type=range]');
    await page.keyboard.press('ArrowLeft');
    again += await page.$$eval('.cells .again, .cells .reopened, .cells .revised', (all) => all.length);
  }
  assert.ok(again > 0, `${passes} passes`);
  await close(page);
});

test('stop ends the request at the server', async () => {
  const page = await open('/playground');
  const ended = async () => (await metric('remask_requests_total', 'outcome="cancelled"')) + (await metric('remask_requests_total', 'outcome="aborted"'));
  for (const [count, stop] of [[1, () => page.click('#ask .stop')], [2, () => page.keyboard.press('Escape')]]) {
    await set(page, { max_tokens: '400', preset: 'quality', more: '{"ignore_eos": true}', slow: true });
    await say(page, 'Go on and on.');
    await page.waitForSelector('.model.busy .done', { state: 'attached' });
    await stop();
    await page.waitForSelector(`#talk li:last-child[data-state=stopped]`);
    await until(async () => (await ended()) === count);
    await until(async () => (await metric('dfastllm_num_requests_running')) === 0);
    assert.match(await page.textContent('#talk li:last-child .foot'), /stopped/);
    assert.ok(await page.isVisible('#ask .run'));
  }
  await page.click('#fresh');
  assert.equal(await page.$$eval('#talk li', (all) => all.length), 0);
  assert.ok(await page.isVisible('#welcome'));
  await close(page);
});

test('gaps are filled, one through a suffix and several through a canvas', async () => {
  const page = await open('/playground');
  await page.check('input[value=infill]', { force: true });
  await set(page, { preset: 'fast' });
  const texts = page.locator('#parts textarea');
  await texts.nth(0).fill('Once upon a time');
  await texts.nth(1).fill(' and they were friends.');
  await page.locator('.gap input').fill('12');
  await page.click('#fill .run');
  await page.waitForSelector('#filled li:nth-child(1)[data-state=done]');
  const first = await page.textContent('#said');
  assert.ok(first.startsWith('Once upon a time') && first.endsWith(' and they were friends.') && first.length > 45, first);
  assert.equal(await page.$eval('#filled .text', (text) => [...text.querySelectorAll('span:not(.cells)')].filter((span) => !span.hidden && !span.matches('.special')).map((span) => span.textContent).join('')), first);
  await page.click('#more');
  await texts.nth(2).fill(' The end.');
  await page.click('#fill .run');
  await page.waitForSelector('#filled li:nth-child(2)[data-state=done]');
  const second = await page.textContent('#said');
  assert.match(second, /^Once upon a time.+ and they were friends\..+ The end\.$/s);
  assert.equal(await page.$$eval('#filled li:nth-child(2) .done', (all) => all.length) > 0, true);
  assert.equal(await page.isHidden('#filled li:nth-child(2) .plain'), true, 'the canvas gives the same text');
  // A model that writes token after token says that it cannot.
  await page.selectOption('#model', 'causal');
  await page.click('#fill .run');
  await page.waitForSelector('#filled .problem');
  await close(page, 400);
});

test('a causal model writes on, without the settings of the others', async () => {
  const page = await open('/playground');
  await page.selectOption('#model', 'causal');
  await page.waitForSelector('.diffusion', { state: 'hidden' });
  await set(page, { max_tokens: '16', seed: '3', steps: '7' });
  await say(page, 'Tell me about a dog.');
  await page.waitForSelector('.model[data-state=done]');
  assert.ok((await page.textContent('#said')).length > 0);
  assert.equal(await page.$$eval('.hole', (all) => all.length), 0);
  await set(page, { max_tokens: '100000' });
  await say(page, 'More.');
  assert.match(await page.textContent('.problem'), /maximum context length is .* context_length_exceeded · field max_tokens/s);
  await close(page, 400);
});

test('text is text', async () => {
  const page = await open('/playground');
  await set(page, { max_tokens: '4' });
  const evil = '<img src=x onerror="document.title=1"><script>document.title=1</script>';
  await say(page, evil);
  await page.waitForSelector('#talk li:last-child[data-state=done]');
  assert.equal(await page.textContent('.you'), evil);
  await set(page, { more: '{"remask": {"<b>no such</b>": 1}}' });
  await say(page, evil);
  assert.match(await page.textContent('.problem'), /<b>no such<\/b>/);
  assert.deepEqual(await page.$$eval('#talk img, #talk script, #talk b', (all) => all.length), 0);
  assert.equal(await page.title(), 'Remask playground');
  await close(page, 400);
});

test('pages fit narrow screens in both colours, and the documentation is complete', async () => {
  for (const colorScheme of ['light', 'dark']) {
    for (const path of ['/playground', '/docs']) {
      const page = await open(path, { viewport: { width: 360, height: 700 }, colorScheme });
      if (path === '/docs') {
        await page.waitForSelector('.operation');
        const { paths } = await (await fetch(`${url}/openapi.json`)).json();
        const operations = Object.values(paths).flatMap((item) => Object.values(item).filter((one) => one.operationId));
        assert.equal(await page.$$eval('.operation', (all) => all.length), operations.length);
        assert.match(await page.textContent('#createChatCompletion .shell pre'), new RegExp(`^curl ${url}/v1/chat/completions`));
        assert.ok((await page.textContent('#createCompletion')).includes('block_length'));
      } else {
        await set(page, { max_tokens: '40', preset: 'fast' });
        await say(page, 'Tell me about a dog.');
        await page.waitForSelector('.model[data-state=done]');
      }
      const [wide, narrow] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
      assert.ok(wide <= narrow, `${path} is ${wide} wide`);
      await close(page);
    }
  }
});
