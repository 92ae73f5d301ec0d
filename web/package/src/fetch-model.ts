// A model's files, from a URL, from kept copies of it or from the user's disk, into the engine's memory.

import { makeError } from './errors.js';
import { Store, checksum, type StoredFile } from './store.js';
import type { Source } from './protocol.js';
import type { Progress } from './types.js';
import type { Files } from './wasm/remask_web.js';

/** What manifest.json says of a file. */
interface Expected {
  bytes: number;
  sha256: string;
}

/** How the files came. */
export interface Fetched {
  origin: string;
  /** Every file was compared with the manifest's hash when it was downloaded. */
  verified: boolean;
  /** Every file is kept for the next load. */
  cached: boolean;
}

const SMALL = ['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'];
const SINGLE = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';
const MANIFEST = 'manifest.json';
const TRIES = 4;
/** Bytes that one allocation of WebAssembly's 32-bit memory cannot hold any more. */
const LARGEST = 2 ** 31;

type Report = (progress: Progress) => void;
/** Told once, while weights are on their way: config.json and the head of the first checkpoint file. */
type Foresee = (config: string, head: Uint8Array) => Promise<void>;

/** Brings every file of a model into `files`. */
export async function fetchModel(
  source: Source,
  files: Files,
  keep: boolean,
  signal: AbortSignal,
  report: Report,
  foresee: Foresee,
): Promise<Fetched> {
  if ('files' in source) return readLocal(source.files, files, signal, report);
  const url = source.url.endsWith('/') ? source.url : `${source.url}/`;
  const run = (store: Store | null) => new Download(url, files, store, signal, report, foresee).all();
  if (!keep) return run(null);
  const store = await Store.open(url);
  if (!store || !navigator.locks) return run(store);
  // A second tab waits, and then finds everything there.
  return navigator.locks.request(`remask ${url}`, { signal }, () => run(store));
}

function tooLarge(name: string, bytes: number) {
  return makeError(
    'limits',
    `${name} has ${bytes} bytes, and in a browser a model's files must be smaller than 2 GiB each`,
    'Use a model in shards, or make its weights smaller with `remask quantize`.',
  );
}

async function readLocal(list: File[], files: Files, signal: AbortSignal, report: Report): Promise<Fetched> {
  const wanted = list.filter((file) => /\.(json|safetensors|jinja)$/.test(file.name) && !/^(golden|manifest)/.test(file.name));
  if (!wanted.some((file) => file.name === 'config.json')) {
    throw makeError('model', 'there is no config.json among the files', 'Choose the whole model folder.');
  }
  const total = wanted.reduce((sum, file) => sum + file.size, 0);
  let loaded = 0;
  const large = wanted.find((file) => file.size >= LARGEST);
  if (large) throw tooLarge(large.name, large.size);
  for (const file of wanted) {
    files.begin(file.name, file.size, false);
    for await (const chunk of chunks(file.stream())) {
      signal.throwIfAborted();
      files.push(file.name, chunk);
      loaded += chunk.length;
      report({ phase: 'read', file: file.name, loaded, total, fromCache: 0 });
    }
  }
  return { origin: 'local files', verified: false, cached: false };
}

/** The chunks of a stream; not every browser can iterate over one. */
async function* chunks(stream: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const reader = stream.getReader();
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
  } finally {
    // Where the loop was left early, the rest need not come.
    reader.cancel().catch(() => {});
  }
}

/** A response's entity tag, or what comes closest. */
function tagOf(response: Response): string | undefined {
  return response.headers.get('etag') ?? response.headers.get('last-modified') ?? undefined;
}

class Download {
  private loaded = 0;
  private total = 0;
  private fromCache = 0;
  private kept: boolean;

  constructor(
    private readonly url: string,
    private readonly files: Files,
    private readonly store: Store | null,
    private readonly signal: AbortSignal,
    private readonly report: Report,
    private foresee: Foresee | null,
  ) {
    this.kept = store !== null;
  }

  /** Adds bytes to a file in the engine's memory. */
  private async push(name: string, chunk: Uint8Array): Promise<void> {
    this.files.push(name, chunk);
    this.loaded += chunk.length;
    if (!this.foresee || !name.endsWith('.safetensors')) return;
    const config = this.files.text('config.json');
    const head = this.files.head(name);
    if (config === undefined || head === undefined) return;
    const told = this.foresee(config, head);
    this.foresee = null;
    await told;
  }

  async all(): Promise<Fetched> {
    const manifest = await this.manifest();
    if (manifest) {
      const names = Object.keys(manifest);
      this.total = names.reduce((sum, name) => sum + (manifest[name]?.bytes ?? 0), 0);
      // The smallest first: a wrong folder shows before gigabytes have come.
      names.sort((a, b) => (manifest[a]?.bytes ?? 0) - (manifest[b]?.bytes ?? 0));
      for (const name of names) await this.file(name, manifest[name]);
    } else {
      if (!(await this.file('config.json'))) throw this.missing('config.json');
      for (const name of SMALL) await this.file(name);
      if (!(await this.file(SINGLE))) await this.shards();
    }
    return { origin: this.url.replace(/\/$/, ''), verified: manifest !== null, cached: this.kept };
  }

  private missing(name: string) {
    return makeError('download', `${this.url}${name} does not exist`, 'Check the address of the model folder.');
  }

  private async manifest(): Promise<{ [name: string]: Expected } | null> {
    if (!(await this.file(MANIFEST, undefined, true))) return null;
    const text = this.files.text(MANIFEST) ?? '';
    this.files.remove(MANIFEST);
    let parsed: { files?: { [name: string]: Expected } };
    try {
      parsed = JSON.parse(text);
    } catch {
      // A server that answers everything with its start page has no manifest.
      return null;
    }
    const listed = parsed.files;
    if (typeof listed !== 'object' || listed === null || !listed['config.json']) {
      throw makeError('model', `${this.url}${MANIFEST} lists no config.json`, 'Write it again with remask-manifest.');
    }
    for (const [name, { bytes, sha256 }] of Object.entries(listed)) {
      if (!/^[\w.-]+$/.test(name) || !Number.isSafeInteger(bytes) || !/^[0-9a-f]{64}$/.test(sha256)) {
        throw makeError('model', `${this.url}${MANIFEST} has a bad entry for ${name}`, 'Write it again with remask-manifest.');
      }
    }
    return listed;
  }

  private async shards(): Promise<void> {
    if (!(await this.file(INDEX))) throw this.missing(`${SINGLE} or ${INDEX}`);
    const index = JSON.parse(this.files.text(INDEX) ?? '{}');
    this.files.remove(INDEX);
    const names = new Set(Object.values<string>(index.weight_map ?? {}));
    for (const name of names) {
      if (!/^[\w.-]+$/.test(name)) throw makeError('model', `${INDEX} names the shard ${JSON.stringify(name)}`);
      if (!(await this.file(name))) throw this.missing(name);
    }
  }

  private tell(phase: 'download' | 'read', file: string): void {
    const total = Math.max(this.total, this.loaded);
    this.report({ phase, file, loaded: this.loaded, total, fromCache: this.fromCache });
  }

  /**
   * One file, kept or fetched; false where there is none. With `expected` it must have that size and hash.
   * `revalidate` asks the server first, and takes the kept copy where it does not answer.
   */
  private async file(name: string, expected?: Expected, revalidate = false): Promise<boolean> {
    const stored = this.store ? await this.store.file(name) : null;
    if (!stored) this.kept = false;
    try {
      for (let attempt = 0; ; attempt++) {
        const found = await this.attempt(name, stored, expected, revalidate);
        if (found !== 'wrong hash') return found;
        stored?.clear();
        if (attempt === 1) {
          throw makeError(
            'download',
            `${this.url}${name} is not what ${MANIFEST} says: its SHA-256 differs, twice`,
            'The file or the manifest on the server is broken; upload it again, or write the manifest again.',
          );
        }
      }
    } finally {
      stored?.close();
    }
  }

  private async attempt(
    name: string,
    stored: StoredFile | null,
    expected: Expected | undefined,
    revalidate: boolean,
  ): Promise<boolean | 'wrong hash'> {
    const record = stored?.record;
    const same = !expected || record?.sha256 === expected.sha256;
    const whole = stored && record?.complete && record.bytes === stored.size && same;
    if (whole && !revalidate && (expected || !(await this.changed(name, record.etag)))) {
      return (await this.take(name, stored, expected)) ? true : 'wrong hash';
    }
    // What has arrived so far is only good for going on with if it is of the same file.
    const resumable = stored && !record?.complete && stored.size > 0 && same && (expected || record?.etag);
    if (stored && !resumable && !whole) stored.clear();
    const before = this.loaded;
    let have = 0;
    if (resumable) {
      await this.take(name, stored, expected);
      have = stored.size;
    } else {
      this.begin(name, expected?.bytes ?? 0);
    }
    if (resumable && have === expected?.bytes && this.files.sha256(name) === expected.sha256) {
      await stored.complete(expected);
      return true;
    }

    let etag = resumable ? record?.etag : undefined;
    let writing = stored;
    for (let tries = 1; ; tries++) {
      try {
        const headers: HeadersInit = have > 0 ? { range: `bytes=${have}-`, ...(etag ? { 'if-range': etag } : {}) } : {};
        const response = await fetch(this.url + name, { headers, signal: this.signal, cache: 'no-cache' });
        if (response.status === 404 || response.status === 410) {
          this.files.remove(name);
          return false;
        }
        if (response.status !== 206 && have > 0) {
          // The server sends all of it, another version, or finds the range past the end: begin again.
          this.loaded = before;
          have = 0;
          writing?.clear();
          this.begin(name, expected?.bytes ?? 0);
          if (response.status === 416) continue;
        }
        if (!response.ok || !response.body) {
          throw makeError('download', `${this.url}${name}: the server answered ${response.status} ${response.statusText}`);
        }
        if (whole && have === 0) writing?.clear();
        etag = tagOf(response);
        const length = Number(response.headers.get('content-length') ?? 0);
        const coded = response.headers.has('content-encoding');
        if (!expected && !coded) {
          this.total = Math.max(this.total, this.loaded + length);
          if (have === 0) this.begin(name, length);
        }
        writing?.setRecord({ ...expected, ...(etag ? { etag } : {}), complete: false });
        for await (const chunk of chunks(response.body)) {
          this.signal.throwIfAborted();
          await this.push(name, chunk);
          have += chunk.length;
          try {
            writing?.append(chunk);
          } catch {
            // The disk is full: go on without keeping the file.
            writing?.clear();
            writing = null;
            this.kept = false;
          }
          this.tell('download', name);
        }
        if (expected && have < expected.bytes) throw new TypeError(`the connection ended after ${have} bytes`);
        break;
      } catch (error) {
        this.signal.throwIfAborted();
        if (!(error instanceof TypeError)) throw error;
        // fetch and its streams fail with TypeErrors where the network does.
        if (whole && revalidate && have === 0) {
          if (await this.take(name, stored, expected)) return true;
          return 'wrong hash';
        }
        if (tries === TRIES) throw makeError('download', `${this.url}${name} broke off after ${have} bytes: ${error.message}`);
        await new Promise((done) => setTimeout(done, 250 * 2 ** tries));
      }
    }
    if (expected && (have !== expected.bytes || this.files.sha256(name) !== expected.sha256)) {
      this.loaded = before;
      return 'wrong hash';
    }
    await writing?.complete({ bytes: have, ...expected, ...(etag ? { etag } : {}) });
    return true;
  }

  /** Makes room for a file in the engine's memory. */
  private begin(name: string, bytes: number): void {
    if (bytes >= LARGEST) throw tooLarge(name, bytes);
    this.files.begin(name, bytes, true);
  }

  /**
   * Reads a kept file into the engine's memory. False where a complete one is no longer what was kept; its
   * checksums are by chunk, because these the browser computes beside everything else.
   */
  private async take(name: string, stored: StoredFile, expected: Expected | undefined): Promise<boolean> {
    const { size, record } = stored;
    const { complete, checksums } = record;
    this.begin(name, size);
    if (this.total < this.loaded + size) this.total = this.loaded + size;
    const before = this.loaded;
    const found: Promise<string>[] = [];
    // The engine's own hash is slower, and only for what has to be compared with the manifest.
    if (complete && checksums) this.files.without_hash(name);
    for (const chunk of stored.read()) {
      if (complete && checksums) found.push(checksum(chunk));
      await this.push(name, chunk);
      this.fromCache += chunk.length;
      this.tell('read', name);
    }
    if (!complete) return true;
    const same = checksums
      ? (await Promise.all(found)).join() === checksums.join()
      : !expected || this.files.sha256(name) === expected.sha256;
    if (!same) {
      this.fromCache -= this.loaded - before;
      this.loaded = before;
    } else if (!checksums) {
      await stored.complete(record);
    }
    return same;
  }

  /** Whether the server, if it answers at all, has another version than the kept one. */
  private async changed(name: string, etag: string | undefined): Promise<boolean> {
    try {
      const response = await fetch(this.url + name, { method: 'HEAD', signal: this.signal, cache: 'no-cache' });
      return response.ok && tagOf(response) !== etag;
    } catch {
      this.signal.throwIfAborted();
      return false;
    }
  }
}
