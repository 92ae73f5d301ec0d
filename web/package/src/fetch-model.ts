// A model's files, from a URL, from kept copies of it or from the user's disk: what is not on this machine yet is
// downloaded, and nothing of it is held in memory.

import { makeError } from './errors.js';
import { ModelFile, headLength } from './model-file.js';
import { Sink } from './sink.js';
import { CHECKED_BYTES, Store, checksum, type StoredFile } from './store.js';
import type { Source } from './protocol.js';
import type { Progress } from './types.js';
import { Hash } from './wasm/remask_web.js';

/** What manifest.json says of a file. */
interface Expected {
  bytes: number;
  sha256: string;
}

/** How the files came. */
export interface Fetched {
  origin: string;
  files: ModelFile[];
  /** Every file was compared with the manifest's hash when it was downloaded. */
  verified: boolean;
  /** Every file is kept for the next load. */
  cached: boolean;
}

const SMALL = ['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'];
const SINGLE = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';
const MANIFEST = 'manifest.json';
const GGUF = /\.gguf$/i;
const TRIES = 4;

type Report = (progress: Progress) => void;
/** Told once, while weights are on their way: config.json and the head of the first checkpoint file. */
type Foresee = (config: string, head: Uint8Array) => Promise<void>;

/** Brings every file of a model onto this machine. */
export async function fetchModel(
  source: Source,
  keep: boolean,
  signal: AbortSignal,
  report: Report,
  foresee: Foresee,
): Promise<Fetched> {
  if ('files' in source) return local(source.files, signal);
  const single = GGUF.test(new URL(source.url).pathname);
  const key = source.url.endsWith('/') ? source.url : `${source.url}/`;
  const url = single ? new URL('.', source.url).href : key;
  const run = (store: Store | null) => {
    const download = new Download(url, store, signal, report, foresee);
    return single ? download.single(source.url) : download.folder();
  };
  if (!keep) return run(null);
  const store = await Store.open(key);
  if (!store || !navigator.locks) return run(store);
  // A second tab waits, and then finds everything there.
  return navigator.locks.request(`remask ${key}`, { signal }, () => run(store));
}

/** Deletes a kept file that has changed on the disk. */
export async function forgetFile(source: Source, name: string): Promise<void> {
  if ('files' in source) return;
  const store = await Store.open(source.url);
  const stored = await store?.file(name);
  stored?.clear();
  stored?.close();
}

function local(list: File[], signal: AbortSignal): Fetched {
  const wanted = list.filter(
    (file) => /\.(json|safetensors|jinja|gguf)$|^pytorch_model.*\.bin$/i.test(file.name) && !/^(golden|manifest)/.test(file.name),
  );
  if (!wanted.some((file) => file.name === 'config.json' || GGUF.test(file.name))) {
    throw makeError('model', 'there is no config.json among the files', 'Choose the whole model folder.');
  }
  const files = wanted.map((file) => new ModelFile(file.name, file, undefined, signal));
  return { origin: 'local files', files, verified: false, cached: false };
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
  private readonly files = new Map<string, ModelFile>();

  constructor(
    private readonly url: string,
    private readonly store: Store | null,
    private readonly signal: AbortSignal,
    private readonly report: Report,
    private foresee: Foresee | null,
  ) {
    this.kept = store !== null;
  }

  async folder(): Promise<Fetched> {
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
    return this.fetched(manifest !== null);
  }

  /** A model in one file. */
  async single(address: string): Promise<Fetched> {
    const name = address.slice(this.url.length);
    if (!(await this.file(name))) throw this.missing(name);
    return this.fetched(false);
  }

  private fetched(verified: boolean): Fetched {
    return { origin: this.url.replace(/\/$/, ''), files: [...this.files.values()], verified, cached: this.kept };
  }

  private missing(name: string) {
    return makeError('download', `${this.url}${name} does not exist`, 'Check the address of the model folder.');
  }

  /** A small file as text; it is no part of the model. */
  private async text(name: string): Promise<string> {
    const file = this.files.get(name);
    this.files.delete(name);
    return (await file?.text()) ?? '';
  }

  private async manifest(): Promise<{ [name: string]: Expected } | null> {
    if (!(await this.file(MANIFEST, undefined, true))) return null;
    let parsed: { files?: { [name: string]: Expected } };
    try {
      parsed = JSON.parse(await this.text(MANIFEST));
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
    const index = JSON.parse(await this.text(INDEX));
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

  /** Has kernels be compiled as soon as config.json and the head of a checkpoint file are there. */
  private async look(name: string, head: () => Promise<Uint8Array | null>): Promise<void> {
    const config = this.files.get('config.json');
    if (!this.foresee || !config || !name.endsWith('.safetensors')) return;
    const found = await head();
    if (!found || !this.foresee) return;
    const told = this.foresee(await config.text(), found);
    this.foresee = null;
    await told;
  }

  /**
   * One file, kept or fetched; false where there is none. With `expected` it must have that size and hash.
   * `revalidate` asks the server first, and takes the kept copy where it does not answer.
   */
  private async file(name: string, expected?: Expected, revalidate = false): Promise<boolean> {
    const stored = this.store ? await this.store.file(name) : null;
    if (!stored) this.kept = false;
    let sink: Sink | null = null;
    try {
      for (let attempt = 0; sink === null; attempt++) {
        const found = await this.attempt(name, stored, expected, revalidate);
        if (found === false) return false;
        if (found !== 'wrong hash') sink = found;
        else if (attempt === 1) {
          throw makeError(
            'download',
            `${this.url}${name} is not what ${MANIFEST} says: its SHA-256 differs, twice`,
            'The file or the manifest on the server is broken; upload it again, or write the manifest again.',
          );
        } else stored?.clear();
      }
    } finally {
      stored?.close();
    }
    const blob = sink.kept ? await sink.kept.blob() : sink.blob();
    const file = new ModelFile(name, blob, sink.kept?.record.checksums, this.signal);
    this.files.set(name, file);
    await this.look(name, () => file.head());
    return true;
  }

  /** The file, complete; false where there is none. */
  private async attempt(
    name: string,
    stored: StoredFile | null,
    expected: Expected | undefined,
    revalidate: boolean,
  ): Promise<Sink | false | 'wrong hash'> {
    const record = stored?.record;
    const same = !expected || record?.sha256 === expected.sha256;
    const whole = stored && record?.complete && record.checksums && record.bytes === stored.size && same;
    if (whole && !revalidate && (expected || !(await this.changed(name, record.etag)))) return this.take(name, stored);
    // What has arrived so far is only good for going on with if it is of the same file.
    const resumable = stored && !record?.complete && stored.size > 0 && same && (expected || record?.etag);
    if (stored && !resumable && !whole) stored.clear();
    const sink = new Sink(stored);
    const before = this.loaded;
    let hash = expected ? new Hash() : null;
    let have = 0;
    if (resumable) {
      for (const chunk of stored.read()) {
        hash?.update(chunk);
        this.count(name, 'read', chunk.length);
      }
      have = stored.size;
      if (have === expected?.bytes && hash?.hex() === expected.sha256) {
        await stored.complete(expected);
        return sink;
      }
    }

    let etag = resumable ? record?.etag : undefined;
    let head: number | null = 8;
    for (let tries = 1; ; tries++) {
      try {
        const headers: HeadersInit = have > 0 ? { range: `bytes=${have}-`, ...(etag ? { 'if-range': etag } : {}) } : {};
        const response = await fetch(this.url + name, { headers, signal: this.signal, cache: 'no-cache' });
        if (response.status === 404 || response.status === 410) return false;
        if (response.status !== 206 && have > 0) {
          // The server sends all of it, another version, or finds the range past the end: begin again.
          this.loaded = before;
          have = 0;
          sink.clear();
          hash = expected ? new Hash() : null;
          if (response.status === 416) continue;
        }
        if (!response.ok || !response.body) {
          throw makeError('download', `${this.url}${name}: the server answered ${response.status} ${response.statusText}`);
        }
        if (whole && have === 0) sink.clear();
        etag = tagOf(response);
        const length = Number(response.headers.get('content-length') ?? 0);
        if (!expected && !response.headers.has('content-encoding')) this.total = Math.max(this.total, this.loaded + length);
        sink.kept?.setRecord({ ...expected, ...(etag ? { etag } : {}), complete: false });
        for await (const chunk of chunks(response.body)) {
          this.signal.throwIfAborted();
          hash?.update(chunk);
          sink.append(chunk);
          if (!sink.kept) this.kept = false;
          have += chunk.length;
          this.count(name, 'download', chunk.length);
          if (head === null || have < head || !this.foresee) continue;
          // First the length of the head, then the head itself.
          if (head === 8) head = headLength(await sink.first(8));
          const end = head;
          if (end === null || have < end) continue;
          head = null;
          await this.look(name, () => sink.first(end));
        }
        if (expected && have < expected.bytes) throw new TypeError(`the connection ended after ${have} bytes`);
        break;
      } catch (error) {
        this.signal.throwIfAborted();
        if (!(error instanceof TypeError)) throw error;
        // fetch and its streams fail with TypeErrors where the network does.
        if (whole && revalidate && have === 0) return this.take(name, stored);
        if (tries === TRIES) throw makeError('download', `${this.url}${name} broke off after ${have} bytes: ${error.message}`);
        await new Promise((done) => setTimeout(done, 250 * 2 ** tries));
      }
    }
    if (expected && (have !== expected.bytes || hash?.hex() !== expected.sha256)) {
      this.loaded = before;
      return 'wrong hash';
    }
    await sink.kept?.complete({ bytes: have, ...expected, ...(etag ? { etag } : {}) });
    return sink;
  }

  /** Counts bytes that arrived, or that are there from an earlier load. */
  private count(name: string, phase: 'download' | 'read', bytes: number): void {
    this.loaded += bytes;
    if (phase === 'read') this.fromCache += bytes;
    this.tell(phase, name);
  }

  /** A complete kept file. It is compared with its checksums as the engine reads it, and its beginning now. */
  private async take(name: string, stored: StoredFile): Promise<Sink | 'wrong hash'> {
    const first = stored.record.checksums?.[0];
    if (first !== undefined && (await checksum(stored.first(CHECKED_BYTES))) !== first) return 'wrong hash';
    this.count(name, 'read', stored.size);
    return new Sink(stored);
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
