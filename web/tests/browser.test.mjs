// The engine, the package and the page in a real browser: Chromium on SwiftShader, a software adapter with
// neither f16 nor much speed. REMASK_WEB_TESTS=all runs every golden case and every prompt.
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';
import { deepened, gguf, stretched } from './made-models.mjs';
import { serve } from './server.mjs';

const ALL = process.env.REMASK_WEB_TESTS === 'all';
const web = fileURLToPath(new URL('..', import.meta.url));
const root = join(web, '..');
const GPU = ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader', '--enable-features=Vulkan'];
const QUIET = [
  '--no-sandbox', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
];

let server;
let context;
let profile;

const launch = (folder, gpu) =>
  chromium.launchPersistentContext(folder, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [...QUIET, ...(gpu ? GPU : [])],
    viewport: { width: 1280, height: 900 },
  });

before(async () => {
  server = await serve([
    ['/dist/', join(web, 'package/dist')],
    ['/kernels/', join(web, 'tests/out')],
    ['/golden/', join(root, 'tests/golden')],
    ['/tests/', join(web, 'tests')],
    ['/page/', join(web, 'page/dist')],
    ['/models/tales-33m/', join(web, 'page/dist/models/tales-33m')],
  ]);
  profile = mkdtempSync(join(tmpdir(), 'remask-web-'));
  context = await launch(profile, true);
});

after(async () => {
  await context?.close();
  await server?.close();
  if (profile) rmSync(profile, { recursive: true, force: true });
});

/** A blank page of the test server; what its scripts say ends up in `page.said`. */
async function blank(where = context) {
  const page = await where.newPage();
  page.said = [];
  page.on('console', (message) => page.said.push(message.text()));
  page.on('pageerror', (error) => page.said.push(String(error)));
  await page.goto(`${server.url}/tests/blank.html`);
  return page;
}

/** Runs `work` in a page of its own; an engine's errors come back as text with their class. */
async function inPage(work, argument) {
  const page = await blank();
  try {
    return await page.evaluate(work, argument);
  } catch (error) {
    throw new Error(`${error.message}\n${page.said.join('\n')}`);
  } finally {
    await page.close();
  }
}

test('every kernel agrees with its float64 reference through WebGPU', async (t) => {
  const page = await blank();
  const names = await page.evaluate(async () => {
    globalThis.kernels = await import('/kernels/remask_testkit_web.js');
    await kernels.default();
    return kernels.tables();
  });
  assert.ok(names.length >= 7, `${names.length} tables`);
  for (const name of names) {
    await t.test(name, async () => {
      // A panic ends the module, so a table that fails leaves the next ones a fresh one.
      const failed = await page.evaluate((table) => kernels.run_table(table).then(() => null, String), name);
      if (failed === null) return;
      const said = page.said.splice(0).join('\n');
      await page.reload();
      await page.evaluate(async () => {
        globalThis.kernels = await import('/kernels/remask_testkit_web.js');
        await kernels.default();
      });
      assert.fail(`${failed}\n${said}`);
    });
  }
  await page.close();
});

for (const name of ['llada-mha', 'llada-gqa-tied']) {
  for (const limits of ALL ? ['default', 'adapter'] : [name === 'llada-mha' ? 'default' : 'adapter']) {
    test(`golden ${name} with ${limits} limits`, async (t) => {
      const report = await inPage(
        async ({ name, limits, every }) => {
          const { Engine } = await import('/dist/index.js');
          const engine = await Engine.load(`/golden/${name}/`, { device: { limits }, cache: false });
          const cases = await (await fetch(`/golden/${name}/golden.json`)).text();
          const tensors = new Uint8Array(await (await fetch(`/golden/${name}/golden.safetensors`)).arrayBuffer());
          const report = await engine.verify({ cases, tensors }, { every });
          engine.dispose();
          return { ...report, device: engine.info.device };
        },
        { name, limits, every: ALL ? 1 : 5 },
      );
      const { max_abs, relative_l2 } = report.logits;
      t.diagnostic(`${report.device.name}: logits within ${max_abs.toExponential(1)} (relative L2 ${relative_l2.toExponential(1)}), ${report.cases.length} generations`);
      assert.ok(report.cases.length >= (ALL ? 26 : 5));
      assert.deepEqual(report.cases.filter((c) => !c.pass || c.result === null), []);
      assert.ok(max_abs <= 1e-3 && relative_l2 <= 1e-4, JSON.stringify(report.logits));
      assert.equal(report.pass, true);
      if (limits === 'default') assert.equal(report.device.limits.storage_buffers, 8);
    });
  }
}

test('the browser generates the ids that the native program generates', async (t) => {
  const native = JSON.parse(readFileSync(join(web, 'tests/native-ids.json'), 'utf8'));
  const chosen = ALL ? native : native.slice(0, 4);
  const found = await inPage(async (cases) => {
    const { Engine } = await import('/dist/index.js');
    const engine = await Engine.load('/models/tales-33m/');
    const found = [];
    for (const { prompt, settings } of cases) found.push(await engine.generate(prompt, settings).result);
    engine.dispose();
    return found;
  }, chosen);
  chosen.forEach(({ prompt, settings, text, tokenIds, forwardPasses, rowsComputed }, at) => {
    const mine = found[at];
    const what = `${prompt} ${JSON.stringify(settings)}`;
    assert.deepEqual(mine.tokenIds, tokenIds, `${what}: ${mine.text} for ${text}`);
    assert.deepEqual([mine.text, mine.forwardPasses, mine.rowsComputed], [text, forwardPasses, rowsComputed], what);
  });
  t.diagnostic(`${chosen.length} prompts, ${found.reduce((sum, r) => sum + r.forwardPasses, 0)} passes`);
});

test('a generation streams its canvas, is aborted, and fills gaps', async () => {
  const seen = await inPage(async () => {
    const { Engine, hole, RequestError } = await import('/dist/index.js');
    const engine = await Engine.load('/golden/llada-mha/', { cache: false });
    const prompt = { ids: [74, 142, 37, 170, 40] };
    const settings = { preset: 'quality', maxTokens: 16, steps: 8, blockLength: 8 };
    const steps = [];
    const generation = engine.generate(prompt, settings);
    for await (const step of generation) steps.push(step);
    const result = await generation.result;

    const abort = new AbortController();
    const begun = engine.generate(prompt, { ...settings, steps: 16, signal: abort.signal });
    const queued = engine.generate(prompt, { ...settings, signal: abort.signal });
    let passes = 0;
    let aborted = '';
    try {
      for await (const step of begun) if ((passes = step.pass) === 3) abort.abort(new Error('enough'));
    } catch (error) {
      aborted = error.message;
    }
    const alsoAborted = await queued.result.catch((error) => error.message);
    // Leaving the loop ends a generation too, and the next one runs.
    const left = engine.generate(prompt, settings);
    for await (const step of left) if (step.pass === 1) break;
    const leftAs = await left.result.then(() => 'finished', (error) => error.name);
    const again = await engine.generate(prompt, settings).result;

    const wrong = await engine.generate(prompt, { treshold: 0.9 }).result.catch((e) => [e instanceof RequestError, e.message]);
    const tooLong = await engine.generate(prompt, { maxTokens: 9999 }).result.catch((e) => e.message);
    const noText = await engine.generate('text').result.catch((e) => [e.name, e.message]);
    const filled = await engine.fill([hole(3)], { threshold: 0.5 }).result;
    const { stats } = engine;
    // Every length by itself, and all of them together.
    const watched = async (piece) => {
      const filling = engine.fill([piece], { threshold: 0.5 });
      const shown = [];
      for await (const step of filling) shown.push(step.positions);
      const logs = shown.at(-1).filter((p) => p.state === 'decided').map((p) => Math.log(p.probability));
      const fit = logs.reduce((sum, log) => sum + log, 0) / logs.length;
      return { lengths: shown.map((positions) => positions.length), fit, last: shown.at(-1).map((p) => p.id), result: await filling.result };
    };
    const lengths = [];
    for (const tokens of [2, 3, 4]) lengths.push(await watched(hole(tokens)));
    const ranged = await watched(hole(2, 4));
    const badRange = await engine.fill([hole(3, 2)]).result.catch((e) => [e instanceof RequestError, e.message]);
    const times = await engine.bench({ rows: [1, 4], context: 8, repeats: 3 });
    const badBench = await engine.bench({ rows: [9], context: 8 }).catch((e) => [e instanceof RequestError, e.message]);
    engine.dispose();
    const disposed = await engine.generate(prompt).result.catch((e) => e.kind);
    return { steps, result, passes, aborted, alsoAborted, leftAs, again, wrong, tooLong, noText, filled, stats, disposed, lengths, ranged, badRange, times, badBench };
  });
  const { steps, result } = seen;
  assert.deepEqual(steps.map((s) => s.pass), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
  assert.deepEqual(steps[0].positions.map((p) => p.state), [...Array(5).fill('given'), ...Array(16).fill('hole')]);
  assert.deepEqual(steps[1].block, [5, 13]);
  assert.equal(steps[1].decided.length, 2);
  for (const at of steps[1].decided) {
    const position = steps[1].positions[at];
    assert.deepEqual([position.state, position.decidedAt, position.depth], ['decided', 1, 1]);
    assert.ok(position.probability > 0 && position.probability <= 1);
  }
  assert.equal(steps[1].positions.filter((p) => p.state === 'proposed').length, 6, 'the rest of the block is provisional');
  assert.deepEqual(steps.at(-1).positions.map((p) => p.id), result.canvasIds);
  assert.ok(steps.every((s, i) => i === 0 || s.rowsComputed === 21 * i));
  assert.deepEqual(result.canvasIds.slice(0, 5), [74, 142, 37, 170, 40]);
  assert.deepEqual([result.forwardPasses, result.rowsComputed, result.decidedTokens], [8, 168, 16]);
  assert.deepEqual([seen.passes, seen.aborted, seen.alsoAborted, seen.leftAs], [3, 'enough', 'enough', 'AbortError']);
  assert.deepEqual(seen.again.canvasIds, result.canvasIds);
  assert.ok(seen.wrong[0] && /treshold/.test(seen.wrong[1]), seen.wrong[1]);
  assert.match(seen.tooLong, /exceed the model's \d+ positions/);
  assert.deepEqual(seen.noText[0], 'ModelError');
  assert.match(seen.noText[1], /token ids/);
  assert.ok(seen.filled.decidedTokens === 3 && seen.filled.canvasIds.length >= 3);
  assert.equal(seen.stats.requests, 3);
  const fits = seen.lengths.map((choice) => choice.fit);
  const best = seen.lengths[fits.indexOf(Math.max(...fits))];
  assert.deepEqual(seen.ranged.result.canvasIds, best.result.canvasIds, `${fits}`);
  assert.deepEqual(seen.ranged.last, best.last, 'the last step is of the text that was chosen');
  assert.ok(Math.abs(seen.ranged.fit - best.fit) < 1e-4);
  assert.equal(Math.max(...seen.ranged.lengths), Math.max(...seen.lengths.flatMap((choice) => choice.lengths)));
  const rows = seen.lengths.map((choice) => choice.result.rowsComputed);
  assert.equal(seen.ranged.result.rowsComputed, rows[0] + rows[1] + rows[2]);
  assert.ok(seen.badRange[0] && /3 to 2 tokens/.test(seen.badRange[1]), String(seen.badRange));
  assert.deepEqual(seen.times.map((t) => t.rows), [1, 4]);
  assert.ok(seen.times.every((t) => t.fastestMilliseconds > 0 && t.medianMilliseconds >= t.fastestMilliseconds));
  assert.ok(seen.badBench[0] && /9 rows/.test(seen.badBench[1]), String(seen.badBench));
  assert.equal(seen.disposed, 'disposed');
});

test('a lost device is made anew once, and the request goes on from its canvas', async () => {
  const seen = await inPage(async () => {
    const { Engine, DeviceLostError } = await import('/dist/index.js');
    let worker;
    const engine = await Engine.load('/golden/llada-mha/', {
      cache: false,
      worker: () => (worker = new Worker('/tests/lost-device-worker.js', { type: 'module' })),
    });
    const ask = (settings) => engine.generate({ ids: [74, 142, 37, 170, 40] }, { preset: 'quality', maxTokens: 24, steps: 14, blockLength: 12, ...settings });
    const lose = async (generation, at) => {
      for await (const step of generation) if (at.includes(step.pass)) worker.postMessage('destroy');
      return generation.result;
    };
    const undisturbed = await ask({}).result;
    const disturbed = await lose(ask({}), [5]);
    // Lost between requests.
    worker.postMessage('destroy');
    const after = await ask({ temperature: 0.8, seed: 4 }).result;
    const sampled = await ask({ temperature: 0.8, seed: 4 }).result;
    const twice = await lose(ask({}), [3, 6]).catch((e) => [e instanceof DeviceLostError, e.message]);
    const recovered = await ask({}).result;
    const { stats } = engine;
    engine.dispose();
    return { undisturbed, disturbed, after, sampled, twice, recovered, stats };
  });
  assert.deepEqual(seen.disturbed.canvasIds, seen.undisturbed.canvasIds);
  assert.equal(seen.disturbed.forwardPasses, seen.undisturbed.forwardPasses);
  assert.deepEqual([seen.undisturbed.devicesLost, seen.disturbed.devicesLost, seen.after.devicesLost], [0, 1, 1]);
  assert.deepEqual(seen.after.canvasIds, seen.sampled.canvasIds);
  assert.ok(seen.twice[0] && /Load the engine again/.test(seen.twice[1]), String(seen.twice));
  assert.deepEqual(seen.recovered.canvasIds, seen.undisturbed.canvasIds);
});

test('files are kept, resumed and verified', async () => {
  const { faults, requests } = server;
  const load = (options = {}) =>
    inPage(async ({ forget, cache, abortAt }) => {
      const { Engine } = await import('/dist/index.js');
      if (forget) await Engine.forget('/models/tales-33m');
      const progress = [];
      const abort = new AbortController();
      try {
        const engine = await Engine.load('/models/tales-33m/', {
          cache,
          signal: abort.signal,
          onProgress: (p) => {
            progress.push(p);
            if (p.phase === 'download' && p.loaded > abortAt) abort.abort();
          },
        });
        engine.dispose();
        return { progress, info: engine.info };
      } catch (error) {
        return { progress, name: error.name, kind: error.kind, message: error.message };
      }
    }, { cache: true, abortAt: Infinity, ...options });
  const asked = () => requests.splice(0).filter((r) => r.path.endsWith('model.safetensors'));

  // Broken off once on the way: the rest comes by a range, and the hash agrees.
  requests.length = 0;
  faults.set('model.safetensors', { cut: 9_000_000 });
  const first = await load({ forget: true });
  assert.deepEqual([first.info?.verified, first.info?.cached], [true, true], JSON.stringify(first.message));
  const ranges = asked();
  assert.equal(ranges.length, 2);
  assert.match(ranges[1].range, /^bytes=[1-9]\d*-$/);
  const downloads = first.progress.filter((p) => p.phase === 'download');
  assert.ok(downloads.length > 10 && downloads.every((p, i) => p.loaded <= p.total || i === 0));
  assert.ok(first.progress.some((p) => p.phase === 'upload') && first.progress.at(-1).phase === 'ready');

  // A second load asks for the manifest alone.
  const second = await load();
  assert.deepEqual(asked(), []);
  assert.ok(second.progress.some((p) => p.phase === 'read' && p.fromCache > 35e6));

  // A byte of the kept file turns on the disk: noticed, and fetched again.
  await inPage(async () => {
    const all = await (await navigator.storage.getDirectory()).getDirectoryHandle('remask');
    for await (const folder of all.values()) {
      const handle = await folder.getFileHandle('model.safetensors').catch(() => null);
      if (!handle) continue;
      const writer = await handle.createWritable({ keepExistingData: true });
      const at = 20_000_000;
      const [byte] = new Uint8Array(await (await handle.getFile()).slice(at, at + 1).arrayBuffer());
      await writer.write({ type: 'write', position: at, data: new Uint8Array([byte ^ 1]) });
      await writer.close();
    }
  });
  requests.length = 0;
  const mended = await load();
  assert.ok(mended.info?.verified, mended.message);
  assert.ok(asked().length > 0 && mended.progress.some((p) => p.phase === 'download' && p.loaded > 35e6));
  assert.equal((await load()).info?.cached, true);
  assert.deepEqual(asked(), []);

  // Aborted in the middle: what has arrived is the start of the next load.
  const aborted = await load({ forget: true, abortAt: 12_000_000 });
  assert.equal(aborted.name, 'AbortError');
  requests.length = 0;
  const resumed = await load();
  assert.ok(resumed.info?.verified, resumed.message);
  assert.match(asked()[0].range ?? 'no range', /^bytes=\d{7,}-$/);

  // One wrong byte, for good: tried twice, then refused with what to do.
  faults.set('model.safetensors', { flip: 5_000_000 });
  const broken = await load({ forget: true });
  faults.clear();
  assert.deepEqual([broken.name, broken.kind], ['DownloadError', 'download']);
  assert.match(broken.message, /SHA-256 differs, twice\. .*upload it again/);
  assert.equal(asked().length, 2);

  // The disk is full after 20 MB: the rest of the load does without it.
  const page = await blank();
  const cdp = await context.newCDPSession(page);
  await cdp.send('Storage.overrideQuotaForOrigin', { origin: server.url, quotaSize: 20_000_000 });
  const full = await load({ forget: true });
  await cdp.send('Storage.overrideQuotaForOrigin', { origin: server.url });
  await page.close();
  assert.deepEqual([full.info?.verified, full.info?.cached], [true, false], full.message);
  assert.ok(full.progress.some((p) => p.phase === 'download' && p.loaded > 35e6));

  // A folder that is not there.
  faults.set('config.json', { status: 404 });
  faults.set('manifest.json', { status: 404 });
  const missing = await load({ forget: true });
  faults.clear();
  assert.match(missing.message, /config\.json does not exist\. Check the address/);
});

test('a model is loaded from files of the user\'s own', async () => {
  const { info, same, refused } = await inPage(async () => {
    const { Engine, ModelError } = await import('/dist/index.js');
    const names = ['config.json', 'model.safetensors', 'golden.json'];
    const files = await Promise.all(names.map(async (name) => new File([await (await fetch(`/golden/llada-mha/${name}`)).blob()], name)));
    const ask = async (engine) => {
      const { canvasIds } = await engine.generate({ ids: [74, 142, 37] }, { maxTokens: 4, steps: 1 }).result;
      engine.dispose();
      return canvasIds.join();
    };
    const own = await Engine.load(files);
    const same = (await ask(own)) === (await ask(await Engine.load('/golden/llada-mha/', { cache: false })));
    const refused = await Engine.load(files.slice(1)).catch((e) => [e instanceof ModelError, e.message]);
    return { info: own.info, same, refused };
  });
  assert.deepEqual([info.model.origin, info.cached, same], ['local files', false, true]);
  assert.ok(refused[0] && /no config\.json.*Choose the whole model folder/.test(refused[1]), String(refused));
});

test('tensors behind the fourth gigabyte of a file are found, and a GGUF file is the model it was made from', async () => {
  const tales = join(root, 'models/tales-33m/model.safetensors');
  const { head, sizes } = stretched(tales, [['filler', 'U8', [5, 2 ** 30]]]);
  const llama = gguf(join(root, 'tests/golden/llada-mha'));
  server.made.set('/made/llada-mha.gguf', { size: llama.length, read: () => [llama] });
  const native = JSON.parse(readFileSync(join(web, 'tests/native-ids.json'), 'utf8'))[1];
  const seen = await inPage(
    async ({ head, filler, prompt, settings }) => {
      const { Engine, ModelError } = await import('/dist/index.js');
      const ask = async (engine, prompt, settings) => {
        const { tokenIds, canvasIds } = await engine.generate(prompt, settings).result;
        const { wasmBytes } = engine.stats;
        engine.dispose();
        return { tokenIds, canvasIds, wasmBytes };
      };
      const blob = async (name) => (await fetch(`/models/tales-33m/${name}`)).blob();
      const tales = await blob('model.safetensors');
      const length = Number(new DataView(await tales.slice(0, 8).arrayBuffer()).getBigUint64(0, true));
      // The same zeros again and again: the browser holds them once.
      const zeros = new Blob([new Uint8Array(1 << 26)]);
      const parts = [new Uint8Array(head), ...Array(filler / zeros.size).fill(zeros), tales.slice(8 + length)];
      const files = [new File(parts, 'model.safetensors')];
      for (const name of ['config.json', 'tokenizer.json']) files.push(new File([await blob(name)], name));
      const { size } = files[0];
      const large = await ask(await Engine.load(files), prompt, settings);
      const short = new File([files[0].slice(0, size - 1)], 'model.safetensors');
      const refused = await Engine.load([short, ...files.slice(1)]).catch((e) => [e instanceof ModelError, e.message]);

      const ids = [{ ids: [74, 142, 37] }, { preset: 'quality', maxTokens: 8, steps: 4 }];
      const plain = await ask(await Engine.load('/golden/llada-mha/', { cache: false }), ...ids);
      const fetched = await ask(await Engine.load('/made/llada-mha.gguf', { cache: false }), ...ids);
      const llama = new File([await (await fetch('/made/llada-mha.gguf')).blob()], 'llada-mha.gguf');
      const own = await ask(await Engine.load([llama]), ...ids);
      const q8 = await Engine.load([llama], { weights: 'q8' });
      const { weights } = q8.info;
      q8.dispose();
      return { size, large, refused, plain, fetched, own, weights };
    },
    { head: [...head], filler: sizes[0], prompt: native.prompt, settings: native.settings },
  );
  assert.ok(seen.size > 5 * 2 ** 30);
  assert.deepEqual(seen.large.tokenIds, native.tokenIds);
  assert.ok(seen.large.wasmBytes < 32 << 20, `${seen.large.wasmBytes} bytes of WebAssembly memory`);
  assert.ok(seen.refused[0] && /its offsets \d+\.\.\d+ exceed/.test(seen.refused[1]), String(seen.refused));
  assert.deepEqual(seen.fetched.canvasIds, seen.plain.canvasIds);
  assert.deepEqual(seen.own.canvasIds, seen.plain.canvasIds);
  assert.equal(seen.weights, 'q8');
});

test('weights of more than 2 GiB are streamed to the device', { skip: !ALL && 'only with --all' }, async (t) => {
  const { config, weights } = deepened(join(root, 'models/tales-33m'), 180);
  assert.ok(weights.size > 2 ** 31);
  const text = Buffer.from(config);
  const tokenizer = readFileSync(join(root, 'models/tales-33m/tokenizer.json'));
  server.made.set('/deep/config.json', { size: text.length, read: () => [text] });
  server.made.set('/deep/tokenizer.json', { size: tokenizer.length, read: () => [tokenizer] });
  server.made.set('/deep/model.safetensors', weights);
  const load = (url, asks) =>
    inPage(
      async ({ url, asks }) => {
        const { Engine } = await import('/dist/index.js');
        const last = {};
        const engine = await Engine.load(url, { onProgress: (p) => (last[p.phase] = p.loaded) });
        const settings = { preset: 'quality', maxTokens: 4, steps: 1 };
        const { canvasIds } = asks ? await engine.generate({ raw: 'The dog is' }, settings).result : {};
        engine.dispose();
        return { canvasIds, last, stats: engine.stats, info: engine.info };
      },
      { url, asks },
    );
  const shallow = await load('/models/tales-33m/', true);
  const first = await load('/deep/', true);
  const again = await load('/deep/', false);
  await inPage(async () => (await import('/dist/index.js')).Engine.forget('/deep'));
  assert.deepEqual(first.canvasIds, shallow.canvasIds);
  for (const { stats, info, last } of [first, again]) {
    t.diagnostic(
      `${stats.weightBytes} bytes on the device, ${stats.wasmBytes} of WebAssembly memory, ${Math.round(info.loadMilliseconds / 1e3)} s`,
    );
    assert.ok(stats.weightBytes > 2 ** 31 && last.upload === stats.weightBytes);
    assert.ok(stats.wasmBytes < 64 << 20, `${stats.wasmBytes} bytes of WebAssembly memory`);
    assert.equal(info.cached, true);
  }
  assert.ok(first.last.download > 2 ** 31 && (again.last.download ?? 0) < 1e7, JSON.stringify(again.last));
});

test('chat completions have OpenAI\'s shape, and blanks of open length are filled', async () => {
  const { whole, chunks, refused, filled } = await inPage(async () => {
    const { Engine } = await import('/dist/index.js');
    const engine = await Engine.load('/models/tales-33m/');
    const request = {
      model: 'tales', messages: [{ role: 'user', content: 'What is the capital of France?' }], max_tokens: 12, block_length: 12, threshold: 0.9,
    };
    const whole = await engine.chat.completions.create(request);
    const chunks = [];
    const stream = await engine.chat.completions.create({ ...request, stream: true, stream_options: { include_usage: true } });
    for await (const chunk of stream) chunks.push(chunk);
    const refused = await engine.chat.completions.create({ ...request, n: 2 }).catch((e) => e.message);
    const filled = await engine.fill('Once there was a little [MASK:1-3] who loved to [MASK].', { threshold: 0.9 }).result;
    engine.dispose();
    return { whole, chunks, refused, filled };
  });
  // As `remask fill` does, whose second best is 'girl named Lily'.
  assert.deepEqual(
    [filled.text, filled.forwardPasses, filled.rowsComputed],
    ['Once there was a little girl, who loved to read.', 4, 67],
  );
  assert.equal(whole.object, 'chat.completion');
  assert.equal(whole.model, 'tales');
  assert.deepEqual(whole.choices[0].message, { role: 'assistant', content: 'The capital of France is Paris.' });
  assert.equal(whole.choices[0].finish_reason, 'stop');
  assert.deepEqual(whole.usage, { prompt_tokens: 22, completion_tokens: 10, total_tokens: 32 });
  assert.ok(chunks.every((c) => c.object === 'chat.completion.chunk' && c.id === chunks[0].id));
  assert.deepEqual(chunks[0].choices[0].delta, { role: 'assistant', content: '' });
  assert.equal(chunks.flatMap((c) => c.choices).map((c) => c.delta.content ?? '').join(''), whole.choices[0].message.content);
  assert.equal(chunks.at(-2).choices[0].finish_reason, 'stop');
  assert.deepEqual(chunks.at(-1).usage, whole.usage);
  assert.match(refused, /n is 2/);
});

test('the page: load, watch, stop, replay, compare, gaps, and once more without a network', async () => {
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  const engine = (state) => page.waitForFunction((s) => document.body.dataset.engine === s, state, { timeout: 120_000 });
  const run = (state) => page.waitForFunction((s) => document.body.dataset.run === s, state, { timeout: 400_000 });
  await page.goto(`${server.url}/page/`);
  await engine('ready');
  assert.match(await page.textContent('#model-name'), /tales-33m on .*swiftshader/i);
  const set = async (name, value) => {
    await page.fill(name, String(value));
    await page.press(name, 'Tab');
  };
  await set('#set-maxTokens', 8);
  await set('#set-steps', 8);
  await page.fill('#prompt', 'What is the capital of France?');

  // Stopped in mid-generation by the keyboard: what was decided stays.
  await page.press('#prompt', 'Enter');
  await page.waitForFunction(() => document.querySelector('.state')?.textContent === 'pass 2', null, { timeout: 400_000 });
  assert.ok((await page.locator('.text .decided').count()) >= 2);
  assert.ok((await page.locator('.text .proposed').count()) >= 1);
  await page.locator('.state').first().click();
  await page.keyboard.press('Escape');
  await run('stopped');
  assert.equal(await page.textContent('.state'), 'stopped');

  // Watched to its end, and replayed.
  await page.selectOption('#set-rule', 'threshold');
  await page.check('#set-freeTail', { force: true });
  await page.click('#run');
  await run('done');
  assert.match(await page.getAttribute('.text', 'data-text'), /The capital of France is/);
  const passes = Number(await page.getAttribute('.replay input', 'max'));
  assert.ok(passes >= 1);
  await page.locator('.state').first().click();
  for (let i = 0; i < passes; i++) await page.keyboard.press('ArrowLeft');
  assert.equal(await page.inputValue('.replay input'), '0');
  assert.equal(await page.locator('.text .hole').count(), 8);
  await page.keyboard.press(' ');
  await page.waitForFunction((n) => document.querySelector('.replay input').value === String(n), passes, { timeout: 120_000 });
  assert.match(await page.textContent('.figures'), /rows computed\d+ of \d+/);
  await page.check('input[name=shade][value=depth]', { force: true });
  assert.equal(await page.getAttribute('.text', 'data-shade'), 'depth');
  await page.hover('.text .decided');
  assert.match(await page.textContent('#tip'), /decided with probability 0\.\d+|decided with probability 1/);

  // Two settings side by side, with gaps.
  await page.check('input[name=mode][value=fill]', { force: true });
  await page.fill('#prompt', 'Tom had a __ dog.');
  await page.check('#compare', { force: true });
  await page.click('#run');
  await run('done');
  assert.equal(await page.locator('.run').count(), 2);
  const texts = await page.locator('.text').evaluateAll((list) => list.map((e) => e.dataset.text));
  for (const text of texts) assert.match(text, /^Tom had a .+ dog\.$/);

  // A phone: nothing sticks out.
  await page.setViewportSize({ width: 360, height: 740 });
  const [inner, scroll] = await page.evaluate(() => [innerWidth, document.documentElement.scrollWidth]);
  assert.ok(scroll <= inner, `${scroll} of ${inner} pixels`);

  // Without a network: the page from its service worker, the model from where it is kept.
  await page.evaluate(() => navigator.serviceWorker.ready);
  await page.reload();
  await engine('ready');
  const { port } = new URL(server.url);
  await server.close();
  await page.reload();
  await engine('ready');
  assert.match(await page.textContent('#facts'), /verified by hash, kept/);
  server = await serve(server.mounts, Number(port));
  await page.close();
  assert.deepEqual(errors, []);
});

test('a browser without WebGPU is told so', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'remask-web-'));
  const plain = await launch(folder, false);
  try {
    const page = await blank(plain);
    const error = await page.evaluate(async () => {
      const { Engine, NoWebGPUError } = await import('/dist/index.js');
      return Engine.load('/golden/llada-mha/').catch((e) => [e instanceof NoWebGPUError, e.message]);
    });
    assert.ok(error[0], String(error));
    assert.match(error[1], /WebGPU.*Use a current/);
    await page.goto(`${server.url}/page/`);
    await page.waitForSelector('#problem:not([hidden])', { timeout: 120_000 });
    assert.match(await page.textContent('#problem'), /WebGPU is not available.*Use a current/s);
  } finally {
    await plain.close();
    rmSync(folder, { recursive: true, force: true });
  }
});

test('the package holds what it needs and nothing else', async () => {
  const { execFileSync } = await import('node:child_process');
  const output = execFileSync('npm', ['pack', '--dry-run', '--json', '--loglevel=error'], { cwd: join(web, 'package'), encoding: 'utf8' });
  const [pack] = Object.values(JSON.parse(output));
  const names = pack.files.map((file) => file.path);
  for (const name of ['README.md', 'LICENSE-MIT', 'dist/index.js', 'dist/index.d.ts', 'dist/worker.js', 'dist/wasm/remask_web_bg.wasm']) {
    assert.ok(names.includes(name), `${name} is missing from ${names}`);
  }
  assert.deepEqual(names.filter((name) => /^(src|node_modules|test)/.test(name)), []);
  assert.ok(existsSync(join(web, 'package/dist/wasm/remask_web_bg.wasm')));
  const wasm = readFileSync(join(web, 'package/dist/wasm/remask_web_bg.wasm')).length;
  // What users are promised, with room for compilers, which differ by some percent.
  assert.ok(wasm < 3_600_000, `${wasm} bytes of WebAssembly`);
});
