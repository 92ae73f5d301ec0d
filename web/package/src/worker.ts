// The worker: owns the engine, takes one request at a time, and streams what happens.

import { RemaskError, makeError, type ErrorKind } from './errors.js';
import { fetchModel, forgetFile, type Fetched } from './fetch-model.js';
import type { CoreResult, FromWorker, Source, StepArrays, ToWorker } from './protocol.js';
import { Store } from './store.js';
import type { EngineInfo, LoadOptions } from './types.js';
import init, { Device, Engine } from './wasm/remask_web.js';

const scope = self as unknown as {
  postMessage(message: FromWorker, transfer?: Transferable[]): void;
  addEventListener(type: 'message', listener: (event: MessageEvent<ToWorker>) => void): void;
};

// Compiled while the page still draws itself and asks for a model.
const started = init();
let engine: Engine | null = null;
let wasmBytes = () => 0;
/** Names of files whose bytes go to the device. */
const WEIGHTS = /\.(safetensors|gguf)$|^pytorch_model.*\.bin$/i;

/** Requests under way or waiting, and how to end them. */
const running = new Map<number, AbortController>();
/** Ends when everything asked for so far is done. */
let queue: Promise<unknown> = Promise.resolve();

scope.addEventListener('message', ({ data }) => {
  if (data.type === 'abort') {
    running.get(data.id)?.abort();
    return;
  }
  const controller = new AbortController();
  running.set(data.id, controller);
  queue = queue.then(async () => {
    try {
      controller.signal.throwIfAborted();
      await handle(data, controller.signal);
    } catch (error) {
      scope.postMessage({ id: data.id, ...described(error, controller.signal) });
    } finally {
      running.delete(data.id);
    }
  });
});

/** A thrown thing as a message. The core throws plain objects with a kind. */
function described(
  error: unknown,
  signal: AbortSignal,
): { type: 'aborted' } | { type: 'error'; kind: ErrorKind; message: string; fix?: string } {
  if (signal.aborted) return { type: 'aborted' };
  if (error instanceof RemaskError) {
    // The message ends with the fix, which the page's class adds again.
    const message = error.fix === '' ? error.message : error.message.slice(0, -error.fix.length).trimEnd();
    return { type: 'error', kind: error.kind, message, fix: error.fix };
  }
  if (typeof error === 'object' && error !== null && 'kind' in error && 'message' in error) {
    return { type: 'error', kind: error.kind as ErrorKind, message: String(error.message) };
  }
  return { type: 'error', kind: 'internal', message: error instanceof Error ? `${error.name}: ${error.message}` : String(error) };
}

async function handle(request: ToWorker, signal: AbortSignal): Promise<void> {
  const { id } = request;
  switch (request.type) {
    case 'load':
      return load(id, request.source, request.options, signal);
    case 'generate':
      return generate(id, request.prompt, request.settings, signal);
    case 'verify': {
      const count = (done: number, total: number) => scope.postMessage({ id, type: 'count', done, total });
      const report = await loaded().verify(request.cases, request.tensors, request.every, count);
      return scope.postMessage({ id, type: 'answer', value: JSON.parse(report) });
    }
    case 'bench': {
      const times = await loaded().bench(request.rows, request.context, request.repeats);
      return scope.postMessage({ id, type: 'answer', value: [...times] });
    }
    case 'encode':
      return scope.postMessage({ id, type: 'answer', value: [...loaded().encode(request.text)] });
    case 'decode':
      return scope.postMessage({ id, type: 'answer', value: loaded().decode(new Uint32Array(request.ids)) });
    case 'forget':
      await Store.forget(request.url);
      return scope.postMessage({ id, type: 'answer', value: null });
    case 'abort':
      return;
  }
}

function loaded(): Engine {
  if (!engine) throw makeError('internal', 'no model is loaded');
  return engine;
}

/** The adapter's name, which browsers give in parts; throws where there is no adapter. */
async function adapterName(power: GPUPowerPreference | undefined): Promise<string> {
  if (!('gpu' in navigator) || !navigator.gpu) {
    throw makeError('no-webgpu', 'this browser has no WebGPU (navigator.gpu is missing)');
  }
  const adapter = await navigator.gpu.requestAdapter(power ? { powerPreference: power } : {});
  if (!adapter) {
    throw makeError('no-webgpu', 'the browser has WebGPU but no adapter for it: no GPU that it trusts was found');
  }
  const { description, vendor, architecture, device } = adapter.info;
  return description || [vendor, architecture, device].filter(Boolean).join(' ') || 'unknown adapter';
}

async function load(
  id: number,
  source: Source,
  options: Pick<LoadOptions, 'device' | 'weights' | 'cache'>,
  signal: AbortSignal,
): Promise<void> {
  const begun = performance.now();
  const power = options.device?.powerPreference;
  const name = await adapterName(power);
  const module = await started;
  wasmBytes = () => module.memory.buffer.byteLength;
  const { made, fetched } = await loadOnce(id, source, options, signal, true);
  if (signal.aborted) {
    made.free();
    signal.throwIfAborted();
  }
  engine?.free();
  engine = made;
  const info: EngineInfo = {
    ...JSON.parse(engine.describe()),
    verified: fetched.verified,
    cached: fetched.cached,
    loadMilliseconds: performance.now() - begun,
  };
  info.device.name ||= name;
  scope.postMessage({ id, type: 'loaded', info, wasmBytes: wasmBytes() });
}

/** Fetches the files and loads them. A kept file that turns out to have changed is fetched `again`. */
async function loadOnce(
  id: number,
  source: Source,
  options: Pick<LoadOptions, 'device' | 'weights' | 'cache'>,
  signal: AbortSignal,
  again: boolean,
): Promise<{ made: Engine; fetched: Fetched }> {
  const weights = options.weights ?? '';
  // The device opens while the files are on their way.
  const opening = Device.open(options.device?.powerPreference ?? '', options.device?.limits ?? 'adapter');
  opening.catch(() => {});
  const fetched = await fetchModel(
    source,
    options.cache ?? true,
    signal,
    (progress) => scope.postMessage({ id, type: 'progress', progress }),
    // Kernels compile while weights arrive. What goes wrong here goes wrong again when the model is loaded.
    async (config, head) => {
      await opening.then((device) => device.prepare(config, head, weights)).catch(() => {});
    },
  );
  const total = fetched.files.reduce((sum, { name, size }) => sum + (WEIGHTS.test(name) ? size : 0), 0);
  const upload = (bytes: number) => {
    const progress = { phase: 'upload', file: '', loaded: bytes, total: Math.max(total, bytes), fromCache: 0 } as const;
    scope.postMessage({ id, type: 'progress', progress });
  };
  const loading = Engine.load(await opening, fetched.files, fetched.origin, weights, upload);
  // Whatever went wrong with files that have changed went wrong because of that.
  const settled = await loading.then((made) => ({ made }), (error: unknown) => ({ error }));
  let changed = false;
  for (const file of fetched.files) {
    if (signal.aborted || !(await file.changed())) continue;
    changed = true;
    await forgetFile(source, file.name);
  }
  fetched.files.forEach((file) => file.loaded());
  if (!changed && 'made' in settled) return { made: settled.made, fetched };
  if ('made' in settled) settled.made.free();
  if (changed && again) return loadOnce(id, source, options, signal, false);
  throw 'error' in settled ? settled.error : makeError('download', 'a kept file changed on the disk, and once more after it was fetched again');
}

async function generate(id: number, prompt: string, settings: string, signal: AbortSignal): Promise<void> {
  const begun = performance.now();
  let last = begun;
  let first = 0;
  let passes = 0;
  // Null is a step of a canvas that is not shown.
  const onStep = (step: Omit<StepArrays, 'milliseconds' | 'passMilliseconds'> | string | null): boolean => {
    if (signal.aborted) return false;
    if (step === null) return true;
    if (typeof step === 'string') {
      scope.postMessage({ id, type: 'lost', reason: step });
      return true;
    }
    const now = performance.now();
    // A step of another canvas at the end, the one that was chosen, is no further pass.
    passes = Math.max(passes, step.pass);
    if (passes === 1) first = now;
    const times = { milliseconds: now - begun, passMilliseconds: step.block ? now - last : 0 };
    last = now;
    scope.postMessage({ id, type: 'step', step: { ...step, ...times } });
    return true;
  };
  const result: CoreResult = JSON.parse(await loaded().generate(prompt, settings, onStep));
  signal.throwIfAborted();
  const end = performance.now();
  scope.postMessage({
    id,
    type: 'generated',
    wasmBytes: wasmBytes(),
    result: {
      ...result,
      milliseconds: end - begun,
      tokensPerSecond: result.decidedTokens / Math.max((end - begun) / 1e3, 1e-9),
      millisecondsPerPass: passes > 1 ? (last - first) / (passes - 1) : last - begun,
    },
  });
}
