// A file of a model on this machine, as the engine reads it: range by range and at once, because the engine
// has no place for all of it and runs where waiting blocks nobody.

import { CHECKED_BYTES, checksum } from './store.js';

/** Chunks that are kept at hand: neighbouring tensors share them. */
const AT_HAND = 4;
/** Chunks that are hashed beside what goes on, each of which the browser copies. */
const MOST_HASHED_AT_ONCE = 8;

/** A file that was kept, chosen by the user, or downloaded without being kept. */
export class ModelFile {
  private readonly reader = new FileReaderSync();
  private readonly chunks = new Map<number, Uint8Array>();
  private readonly sums = new Map<number, Promise<string> | null>();
  private hashing = 0;

  /** `checksums` are of the chunks of a file that was kept before: what is read is compared with them. */
  constructor(
    readonly name: string,
    private readonly blob: Blob,
    private readonly checksums: readonly string[] | undefined,
    private signal: AbortSignal | null,
  ) {}

  get size(): number {
    return this.blob.size;
  }

  /** Bytes `start` to `end`. The engine calls it; it throws where the load was aborted. */
  read(start: number, end: number): Uint8Array {
    this.signal?.throwIfAborted();
    if (!this.checksums) return this.bytes(start, end);
    const found = new Uint8Array(end - start);
    for (let at = start; at < end; ) {
      const index = Math.floor(at / CHECKED_BYTES);
      const first = index * CHECKED_BYTES;
      const piece = this.chunk(index).subarray(at - first, end - first);
      if (piece.length === 0) throw new Error(`${this.name} ends before byte ${end}`);
      found.set(piece, at - start);
      at += piece.length;
    }
    return found;
  }

  async text(): Promise<string> {
    return this.blob.text();
  }

  /** The file up to the end of its header, for a safetensors file; null where that is very long. */
  async head(): Promise<Uint8Array | null> {
    const bytes = async (end: number) => new Uint8Array(await this.blob.slice(0, end).arrayBuffer());
    const length = headLength(await bytes(8));
    return length === null || length > this.size ? null : bytes(length);
  }

  /** The load is over: its signal means nothing to reads from now on. */
  loaded(): void {
    this.signal = null;
    this.chunks.clear();
  }

  /** Whether something that was read is not what was kept. */
  async changed(): Promise<boolean> {
    for (const [index, sum] of this.sums) {
      const found = await (sum ?? checksum(this.bytes(index * CHECKED_BYTES, (index + 1) * CHECKED_BYTES)));
      if (found !== this.checksums?.[index]) return true;
    }
    return false;
  }

  private bytes(start: number, end: number): Uint8Array {
    return new Uint8Array(this.reader.readAsArrayBuffer(this.blob.slice(start, end)));
  }

  private chunk(index: number): Uint8Array {
    let chunk = this.chunks.get(index);
    if (chunk) return chunk;
    chunk = this.bytes(index * CHECKED_BYTES, (index + 1) * CHECKED_BYTES);
    const oldest = this.chunks.keys().next();
    if (this.chunks.size === AT_HAND && !oldest.done) this.chunks.delete(oldest.value);
    this.chunks.set(index, chunk);
    if (!this.sums.has(index)) {
      // Where hashing does not keep up with reading, the chunk's turn comes in the end.
      const now = this.hashing < MOST_HASHED_AT_ONCE;
      if (now) this.hashing++;
      this.sums.set(index, now ? checksum(chunk).finally(() => this.hashing--) : null);
    }
    return chunk;
  }
}

/** Headers that are longer than this are not looked at ahead of time. */
const LONGEST_HEAD = 16 << 20;

/** Bytes up to the end of a safetensors header, from the first eight; null where that is not sensible. */
export function headLength(first: Uint8Array): number | null {
  if (first.length < 8) return null;
  const length = Number(new DataView(first.buffer, first.byteOffset, 8).getBigUint64(0, true));
  return length <= LONGEST_HEAD ? 8 + length : null;
}
