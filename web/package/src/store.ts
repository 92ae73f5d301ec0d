// Downloaded files, kept in the origin's private file system. It is chosen over Cache Storage because a
// file there can be appended to while it arrives, so that a broken download goes on where it stopped.

/** What is known of a kept file. */
export interface Record {
  /** Size when complete, if known. */
  bytes?: number;
  sha256?: string;
  etag?: string;
  complete: boolean;
  /** Of the chunks of a complete file, in order. */
  checksums?: string[];
}

const FOLDER = 'remask';

/** A name that no URL can escape from: its hash. One with a slash at the end is the same as one without. */
async function folderName(url: string): Promise<string> {
  return checksum(new TextEncoder().encode(url.endsWith('/') ? url : `${url}/`));
}

/** The kept files of one model folder. */
export class Store {
  private constructor(private readonly folder: FileSystemDirectoryHandle) {}

  /** Opens the folder of a URL; null where the browser keeps no files (private windows, plain http). */
  static async open(url: string): Promise<Store | null> {
    try {
      const root = await navigator.storage.getDirectory();
      const all = await root.getDirectoryHandle(FOLDER, { create: true });
      return new Store(await all.getDirectoryHandle(await folderName(url), { create: true }));
    } catch {
      return null;
    }
  }

  /** Deletes what is kept of a URL. */
  static async forget(url: string): Promise<void> {
    try {
      const root = await navigator.storage.getDirectory();
      const all = await root.getDirectoryHandle(FOLDER);
      await all.removeEntry(await folderName(url), { recursive: true });
    } catch (error) {
      if (!(error instanceof DOMException && error.name === 'NotFoundError')) throw error;
    }
  }

  /** Opens a file for itself alone; null where another tab holds it. */
  async file(name: string): Promise<StoredFile | null> {
    try {
      const data = await this.folder.getFileHandle(name, { create: true });
      const record = await this.folder.getFileHandle(`${name}.record`, { create: true });
      const handles = [await data.createSyncAccessHandle()];
      try {
        handles.push(await record.createSyncAccessHandle());
      } catch (error) {
        handles[0]?.close();
        throw error;
      }
      return new StoredFile(data, handles[0]!, handles[1]!);
    } catch {
      return null;
    }
  }
}

/** Bytes of a file that have a checksum together. */
export const CHECKED_BYTES = 4 << 20;

/** Half a SHA-256 in hexadecimal digits. The bytes are copied at once, and hashed beside what goes on. */
export async function checksum(bytes: Uint8Array): Promise<string> {
  const digest = await crypto.subtle.digest('SHA-256', bytes as Uint8Array<ArrayBuffer>);
  return Array.from(new Uint8Array(digest).slice(0, 16), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** One kept file with its record. */
export class StoredFile {
  readonly record: Record;

  constructor(
    private readonly file: FileSystemFileHandle,
    private readonly data: FileSystemSyncAccessHandle,
    private readonly recordFile: FileSystemSyncAccessHandle,
  ) {
    const bytes = new Uint8Array(recordFile.getSize());
    recordFile.read(bytes, { at: 0 });
    let record: Record = { complete: false };
    try {
      record = JSON.parse(new TextDecoder().decode(bytes));
    } catch {
      // Nothing was kept yet, or the tab was closed while this was written: begin again.
    }
    this.record = record;
  }

  get size(): number {
    return this.data.getSize();
  }

  /** The file's bytes, a few MiB at a time, in an array that is used again. */
  *read(): Generator<Uint8Array> {
    const chunk = new Uint8Array(Math.min(CHECKED_BYTES, this.size));
    for (let at = 0; at < this.size; ) {
      const count = this.data.read(chunk, { at });
      if (count === 0) break;
      yield chunk.subarray(0, count);
      at += count;
    }
  }

  /** Adds bytes at the end; false, and nothing added, where the disk quota is used up. */
  append(chunk: Uint8Array): boolean {
    const at = this.size;
    try {
      if (this.data.write(chunk as Uint8Array<ArrayBuffer>, { at }) === chunk.length) return true;
    } catch {
      // As below.
    }
    this.data.truncate(at);
    return false;
  }

  /** Marks the file as complete, with checksums by which later loads know it again. */
  async complete(record: Omit<Record, 'complete' | 'checksums'>): Promise<void> {
    const checksums: string[] = [];
    for (const chunk of this.read()) checksums.push(await checksum(chunk));
    this.setRecord({ ...record, complete: true, checksums });
  }

  /** Begins again with nothing. */
  clear(): void {
    this.data.truncate(0);
    this.setRecord({ complete: false });
  }

  setRecord(record: Record): void {
    Object.assign(this.record, { bytes: undefined, sha256: undefined, etag: undefined, checksums: undefined }, record);
    const bytes = new TextEncoder().encode(JSON.stringify(this.record));
    this.recordFile.truncate(0);
    this.recordFile.write(bytes, { at: 0 });
    this.recordFile.flush();
  }

  /** The first bytes, at most so many. */
  first(count: number): Uint8Array {
    const bytes = new Uint8Array(Math.min(count, this.size));
    this.data.read(bytes, { at: 0 });
    return bytes;
  }

  close(): void {
    this.data.flush();
    this.data.close();
    this.recordFile.close();
  }

  /** The file for reading, once it is closed: other tabs may open it meanwhile. */
  blob(): Promise<Blob> {
    return this.file.getFile();
  }
}
