// The engine as a page sees it: a typed proxy of the worker.

import { Completions } from './openai.js';
import { makeError, type RemaskError } from './errors.js';
import type { FromWorker, Source, StepArrays, ToWorker } from './protocol.js';
import type {
  DecodeSettings,
  EngineInfo,
  EngineStats,
  GenerateOptions,
  Hole,
  LoadOptions,
  PassTimes,
  Position,
  PositionState,
  Prompt,
  Result,
  Step,
  VerifyReport,
} from './types.js';

const STATES: PositionState[] = ['given', 'hole', 'decided', 'proposed'];

/** What listens to the answers of one request. */
interface Listener {
  on(message: FromWorker): void;
  fail(error: unknown): void;
}

type Body = ToWorker extends infer M ? (M extends { id: number } ? Omit<M, 'id'> : never) : never;

/** Requests and answers over one worker. */
class Channel {
  private readonly listeners = new Map<number, Listener>();
  private next = 1;
  private closed: RemaskError | null = null;
  wasmBytes = 0;

  constructor(private readonly worker: Worker) {
    worker.addEventListener('message', ({ data }: MessageEvent<FromWorker>) => {
      if ('wasmBytes' in data) this.wasmBytes = data.wasmBytes;
      this.listeners.get(data.id)?.on(data);
    });
    worker.addEventListener('error', (event) => {
      this.close(makeError('internal', `the worker stopped: ${event.message || 'its script could not be loaded'}`));
    });
  }

  /** Sends a request; `on` sees every message about it. Resolves with the last one. */
  request(body: Body, signal: AbortSignal | undefined, on: (message: FromWorker) => void = () => {}): Promise<FromWorker> {
    if (this.closed) return Promise.reject(this.closed);
    if (signal?.aborted) return Promise.reject(signal.reason);
    const id = this.next++;
    return new Promise<FromWorker>((resolve, reject) => {
      const abort = () => this.worker.postMessage({ id, type: 'abort' } satisfies ToWorker);
      const end = () => {
        this.listeners.delete(id);
        signal?.removeEventListener('abort', abort);
      };
      signal?.addEventListener('abort', abort);
      this.listeners.set(id, {
        on(message) {
          on(message);
          if (message.type === 'progress' || message.type === 'step' || message.type === 'count' || message.type === 'lost') return;
          end();
          if (message.type === 'error') reject(makeError(message.kind, message.message, message.fix));
          else if (message.type === 'aborted') reject(signal?.reason ?? new DOMException('aborted', 'AbortError'));
          else resolve(message);
        },
        fail(error) {
          end();
          reject(error);
        },
      });
      this.worker.postMessage({ id, ...body } as ToWorker);
    });
  }

  close(error: RemaskError): void {
    this.closed ??= error;
    this.worker.terminate();
    for (const listener of [...this.listeners.values()]) listener.fail(this.closed);
  }
}

/** A value of a request that answers one. */
async function answer<T>(sent: Promise<FromWorker>): Promise<T> {
  const message = await sent;
  return (message.type === 'answer' ? message.value : undefined) as T;
}

/**
 * A generation under way: iterate over its steps, await its `result`, or both. Leaving the loop early ends
 * it; ending it by its signal makes both reject with the signal's reason.
 */
export class Generation implements AsyncIterable<Step> {
  /** The finished generation. */
  readonly result: Promise<Result>;
  private readonly steps: Step[] = [];
  private ended = false;
  private failure: unknown;
  private wake: (() => void)[] = [];
  private readonly leave = new AbortController();

  /** @internal */
  constructor(
    run: (signal: AbortSignal, onStep: (step: Step) => void) => Promise<Result>,
    signal: AbortSignal | undefined,
  ) {
    const both = signal ? AbortSignal.any([signal, this.leave.signal]) : this.leave.signal;
    this.result = run(both, (step) => {
      this.steps.push(step);
      this.notify();
    });
    this.result.then(
      () => this.end(undefined),
      (error: unknown) => this.end(error),
    );
  }

  private notify(): void {
    for (const wake of this.wake.splice(0)) wake();
  }

  private end(failure: unknown): void {
    this.ended = true;
    this.failure = failure;
    this.notify();
  }

  /** Every step from the first, however late one begins to listen; the first is the untouched canvas. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Step, Result, undefined> {
    let finished = false;
    try {
      for (let at = 0; ; ) {
        const step = this.steps[at];
        if (step) {
          at++;
          yield step;
        } else if (this.ended) {
          finished = true;
          if (this.failure !== undefined) throw this.failure;
          return await this.result;
        } else {
          await new Promise<void>((wake) => this.wake.push(wake));
        }
      }
    } finally {
      if (!finished) this.leave.abort(new DOMException('the loop over the steps was left', 'AbortError'));
    }
  }
}

/** The arrays of a step as positions. */
function unpack(s: StepArrays, stopIds: ReadonlySet<number>): Step {
  const computed = new Set(s.computed ?? []);
  const positions = Array.from(s.tokens, (id, at): Position => {
    const decidedAt = s.decidedAt?.[at] ?? 0;
    return {
      id,
      text: s.texts[at] ?? '',
      state: STATES[s.states[at] ?? 0] ?? 'given',
      probability: s.probabilities?.[at] ?? 0,
      depth: s.depths?.[at] ?? 0,
      ...(decidedAt === 0 ? {} : { decidedAt }),
      computed: computed.has(at),
      stop: stopIds.has(id),
    };
  });
  return {
    pass: s.pass,
    block: [s.block?.[0] ?? 0, s.block?.[1] ?? 0],
    positions,
    decided: Array.from(s.decided ?? []),
    remasked: Array.from(s.remasked ?? []),
    text: s.text ?? '',
    rowsComputed: s.rowsComputed ?? 0,
    rowsOfFullCompute: s.rowsOfFullCompute ?? 0,
    milliseconds: s.milliseconds,
    passMilliseconds: s.passMilliseconds,
  };
}

/** Names in the native program's spelling, all the way down. */
function snake(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  const renamed = Object.entries(value).map(([name, inner]) => [
    name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
    snake(inner),
  ]);
  return Object.fromEntries(renamed);
}

/** Settings as the core reads them. */
function settingsJson({ threshold, ...settings }: DecodeSettings): string {
  if (threshold !== undefined) settings.accept ??= `threshold:${threshold}`;
  return JSON.stringify(snake(settings));
}

/** A prompt as the core reads it. */
function promptJson(prompt: Prompt): string {
  if (typeof prompt === 'string') return JSON.stringify({ messages: [{ role: 'user', content: prompt }] });
  if (Array.isArray(prompt)) return JSON.stringify({ messages: prompt });
  return JSON.stringify(prompt);
}

/** A model on the browser's GPU. */
export class Engine {
  /** Requests in OpenAI's shape. */
  readonly chat: { completions: Completions };
  private readonly counts = {
    requests: 0,
    forwardPasses: 0,
    decidedTokens: 0,
    rowsComputed: 0,
    rowsOfFullCompute: 0,
    milliseconds: 0,
    devicesLost: 0,
  };

  private constructor(
    private readonly channel: Channel,
    /** What was loaded, and on which device. */
    readonly info: EngineInfo,
  ) {
    this.chat = { completions: new Completions(this) };
  }

  /**
   * Loads a model: the URL of its folder or of a GGUF file, or its files from the user's disk. Files are verified against the
   * folder's manifest.json, where there is one, and kept for the next load, which needs no network.
   *
   * @throws NoWebGPUError, LimitsError, OutOfMemoryError, DownloadError, ModelError, or the signal's reason.
   */
  static async load(source: string | URL | Iterable<File>, options: LoadOptions = {}): Promise<Engine> {
    options.signal?.throwIfAborted();
    const from: Source =
      typeof source === 'string' || source instanceof URL
        ? { url: new URL(source, globalThis.location?.href).href }
        : { files: [...source] };
    const worker = options.worker?.() ?? new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
    const channel = new Channel(worker);
    const { device, weights, cache } = options;
    const passed = {
      ...(device ? { device } : {}),
      ...(weights ? { weights } : {}),
      ...(cache === undefined ? {} : { cache }),
    };
    try {
      const message = await channel.request({ type: 'load', source: from, options: passed }, options.signal, (message) => {
        if (message.type === 'progress') options.onProgress?.(message.progress);
      });
      if (message.type !== 'loaded') throw makeError('internal', 'the worker answered out of turn');
      const { weightBytes } = message.info;
      options.onProgress?.({ phase: 'ready', file: '', loaded: weightBytes, total: weightBytes, fromCache: 0 });
      return new Engine(channel, message.info);
    } catch (error) {
      channel.close(makeError('disposed', 'the load failed'));
      throw error;
    }
  }

  /** Deletes what is kept of a model folder. */
  static async forget(url: string | URL): Promise<void> {
    const channel = new Channel(new Worker(new URL('./worker.js', import.meta.url), { type: 'module' }));
    const href = new URL(url, globalThis.location?.href).href;
    try {
      await channel.request({ type: 'forget', url: href }, undefined);
    } finally {
      channel.close(makeError('disposed', 'done'));
    }
  }

  /** Answers a prompt by unmasking a canvas. Requests run one after the other. */
  generate(prompt: Prompt, options: GenerateOptions = {}): Generation {
    const { signal, ...settings } = options;
    return this.decode(promptJson(prompt), settings, signal);
  }

  /**
   * Fills the gaps of a text. In pieces, `engine.fill(['The dog ', hole(3), ' home.'])`, all text is text; as
   * one string, `[MASK]` is a gap of one token, `[MASK:3]` of three and `[MASK:2-5]` of as many as fit best, as
   * for the native program. Where lengths are open, all of them are decided together: steps show the longest
   * text, and the last step the one that fits best.
   */
  fill(text: string | readonly (string | Hole)[], options: GenerateOptions = {}): Generation {
    const { signal, ...settings } = options;
    const fill = typeof text === 'string' ? text : text.map((piece) => (typeof piece === 'string' ? { text: piece } : piece));
    return this.decode(JSON.stringify({ fill }), settings, signal);
  }

  private decode(prompt: string, settings: DecodeSettings, signal: AbortSignal | undefined): Generation {
    const stopIds = new Set(this.info.model.stopIds);
    return new Generation(async (both, onStep) => {
      const body = { type: 'generate', prompt, settings: settingsJson(settings) } as const;
      const message = await this.channel.request(body, both, (message) => {
        if (message.type === 'step') onStep(unpack(message.step, stopIds));
        if (message.type === 'lost') this.counts.devicesLost++;
      });
      if (message.type !== 'generated') throw makeError('internal', 'the worker answered out of turn');
      const { result } = message;
      this.counts.requests++;
      for (const key of ['forwardPasses', 'decidedTokens', 'rowsComputed', 'rowsOfFullCompute', 'milliseconds'] as const) {
        this.counts[key] += result[key];
      }
      return result;
    }, signal);
  }

  /**
   * Compares this device with a reference implementation: the contents of golden.json and
   * golden.safetensors of this model. `every` runs only every so-manieth generation.
   */
  async verify(
    golden: { cases: string; tensors: Uint8Array },
    options: { every?: number; onProgress?: (done: number, total: number) => void; signal?: AbortSignal } = {},
  ): Promise<VerifyReport> {
    const body = { type: 'verify', ...golden, every: options.every ?? 1 } as const;
    return answer(
      this.channel.request(body, options.signal, (message) => {
        if (message.type === 'count') options.onProgress?.(message.done, message.total);
      }),
    );
  }

  /**
   * Times passes of so many rows each, as `remask bench` does: all rows of a canvas, or a part of one of
   * `context` positions.
   */
  async bench(
    options: { rows: readonly number[]; context?: number; repeats?: number; signal?: AbortSignal },
  ): Promise<PassTimes[]> {
    const found: PassTimes[] = [];
    for (const rows of options.rows) {
      const body = { type: 'bench', rows, context: options.context ?? rows, repeats: options.repeats ?? 15 } as const;
      const times = (await answer<number[]>(this.channel.request(body, options.signal))).sort((a, b) => a - b);
      found.push({ rows, medianMilliseconds: times[times.length >> 1] ?? NaN, fastestMilliseconds: times[0] ?? NaN });
    }
    return found;
  }

  /** Ids of a text; special tokens in it are plain text. */
  async encode(text: string): Promise<number[]> {
    return answer(this.channel.request({ type: 'encode', text }, undefined));
  }

  /** Text of ids, special tokens left out. */
  async decodeIds(ids: readonly number[]): Promise<string> {
    return answer(this.channel.request({ type: 'decode', ids: [...ids] }, undefined));
  }

  /** What this engine has done so far, and the memory it takes. */
  get stats(): EngineStats {
    return { ...this.counts, weightBytes: this.info.weightBytes, wasmBytes: this.channel.wasmBytes };
  }

  /** Ends every request and gives back the device and its memory. */
  dispose(): void {
    this.channel.close(makeError('disposed', 'the engine was disposed of'));
  }
}
