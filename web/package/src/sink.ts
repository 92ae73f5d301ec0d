// Where a download goes: into a kept file, or into a blob, which the browser may move to its disk by itself.
// Neither is in the engine's memory.

import type { StoredFile } from './store.js';

/** Small chunks are put together until they are this many bytes. */
const PIECE = 8 << 20;

export class Sink {
  private pieces: Blob[] = [];
  private chunks: Uint8Array<ArrayBuffer>[] = [];
  private pending = 0;

  /** `stored` is null where nothing is kept; otherwise it may hold what arrived earlier. */
  constructor(private stored: StoredFile | null) {}

  /** The file that the bytes are kept in, unless the disk was too full for it. */
  get kept(): StoredFile | null {
    return this.stored;
  }

  append(chunk: Uint8Array): void {
    if (this.stored?.append(chunk)) return;
    if (this.stored) this.giveUp(this.stored);
    this.put(chunk as Uint8Array<ArrayBuffer>);
  }

  clear(): void {
    this.stored?.clear();
    this.pieces = [];
    this.chunks = [];
    this.pending = 0;
  }

  /** The first bytes, at most so many. */
  async first(count: number): Promise<Uint8Array> {
    if (this.stored) return this.stored.first(count);
    return new Uint8Array(await this.blob().slice(0, count).arrayBuffer());
  }

  /** What arrived, where it is not kept. */
  blob(): Blob {
    return new Blob([...this.pieces, ...this.chunks]);
  }

  /** The disk is full: go on without keeping the file. */
  private giveUp(stored: StoredFile): void {
    this.stored = null;
    for (const chunk of stored.read()) this.put(chunk.slice());
    stored.clear();
  }

  private put(chunk: Uint8Array<ArrayBuffer>): void {
    this.chunks.push(chunk);
    this.pending += chunk.length;
    if (this.pending < PIECE) return;
    this.pieces.push(new Blob(this.chunks));
    this.chunks = [];
    this.pending = 0;
  }
}
