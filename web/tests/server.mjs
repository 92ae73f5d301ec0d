// A server on 127.0.0.1 for the tests: serves folders, answers ranges, and breaks when it is told to.
import { createServer } from 'node:http';
import { createReadStream, existsSync, statSync } from 'node:fs';
import { extname, join, normalize } from 'node:path';
import { Readable } from 'node:stream';

const TYPES = {
  '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.wasm': 'application/wasm', '.json': 'application/json',
  '.css': 'text/css', '.svg': 'image/svg+xml', '.woff2': 'font/woff2', '.png': 'image/png',
};

/**
 * Serves `mounts`, [prefix, folder] pairs in order. `faults` may hold, for the end of a path, `{ cut: bytes }`
 * (the connection breaks once after so many bytes), `{ flip: byte }` (a wrong byte there, for good) or
 * `{ status }`. `made` may hold, for a path, a file that is made as it is sent: its `size`, and a generator
 * `read` of its bytes. `requests` records every request.
 */
export async function serve(mounts, port = 0) {
  const faults = new Map();
  const made = new Map();
  const requests = [];
  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url, 'http://localhost').pathname);
    requests.push({ method: request.method, path, range: request.headers.range });
    const mount = mounts.find(([prefix]) => path.startsWith(prefix));
    let file = mount && join(mount[1], normalize(`/${path.slice(mount[0].length)}`));
    if (file && existsSync(file) && statSync(file).isDirectory()) file = join(file, 'index.html');
    const fault = [...faults].find(([end]) => path.endsWith(end))?.[1];
    const making = made.get(path);
    if (!(making || (file && existsSync(file))) || fault?.status) {
      response.writeHead(fault?.status ?? 404).end();
      return;
    }
    const { size, mtimeMs } = making ? { ...making, mtimeMs: 0 } : statSync(file);
    const etag = `"${size}-${Math.round(mtimeMs)}"`;
    const range = /^bytes=(\d+)-$/.exec(request.headers.range ?? '');
    const start = range && !making && (request.headers['if-range'] ?? etag) === etag ? Number(range[1]) : 0;
    const headers = { 'content-type': TYPES[extname(making ? path : file)] ?? 'application/octet-stream', etag, 'accept-ranges': 'bytes' };
    if (start >= size && size > 0) {
      response.writeHead(416, { 'content-range': `bytes */${size}` }).end();
      return;
    }
    headers['content-length'] = size - start;
    if (start > 0) headers['content-range'] = `bytes ${start}-${size - 1}/${size}`;
    response.writeHead(start > 0 ? 206 : 200, headers);
    if (request.method === 'HEAD') {
      response.end();
      return;
    }
    let sent = start;
    const stream = making ? Readable.from(making.read()) : createReadStream(file, { start, highWaterMark: 1 << 16 });
    stream.on('data', (chunk) => {
      if (fault?.flip >= sent && fault.flip < sent + chunk.length) chunk[fault.flip - sent] ^= 1;
      sent += chunk.length;
      const cut = fault?.cut && sent >= fault.cut;
      // The connection breaks when all before has left, however slowly the browser takes it.
      const room = response.write(chunk, cut ? () => setTimeout(() => response.destroy(), 50) : undefined);
      if (cut) {
        [...faults.keys()].filter((end) => path.endsWith(end)).forEach((end) => faults.delete(end));
        stream.destroy();
      } else if (!room) {
        stream.pause();
        response.once('drain', () => stream.resume());
      }
    });
    stream.on('end', () => response.end());
    response.on('close', () => stream.destroy());
  });
  await new Promise((done) => server.listen(port, '127.0.0.1', done));
  return {
    mounts,
    url: `http://127.0.0.1:${server.address().port}`,
    faults,
    made,
    requests,
    close: () => new Promise((done) => { server.closeAllConnections(); server.close(done); }),
  };
}
