// This server, as the pages see it: requests with the key, streams of events, metrics.

/** Where the server is: beside the page, whatever a proxy puts before it. */
export const base = new URL('.', document.baseURI);

const KEY = 'remask-key';

/** The key lives as long as the tab, and nowhere but here. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? '',
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** What the server refused, in its own words. */
export class Refused extends Error {
  constructor({ message, param, code } = {}, status = 0, said = {}) {
    super(message || `the server answered ${status}`);
    this.status = status;
    this.param = param ?? null;
    this.code = code ?? null;
    /** The whole of the answer. */
    this.said = said;
  }
}

/** A name for a request. Pages that came over plain HTTP from elsewhere have no randomUUID. */
export function freshId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `playground-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')}`;
}

/** Sends a request. Rejects with Refused where the answer is not a success, in the server's words. */
export async function call(path, { method = 'GET', body, signal, id } = {}) {
  const headers = new Headers();
  if (key.get()) headers.set('authorization', `Bearer ${key.get()}`);
  if (body !== undefined) headers.set('content-type', 'application/json');
  if (id) headers.set('x-request-id', id);
  const request = { method, headers, signal, cache: 'no-store', body: body === undefined ? undefined : JSON.stringify(body) };
  let response;
  try {
    response = await fetch(new URL(path, base), request);
  } catch (problem) {
    if (problem.name === 'AbortError') throw problem;
    throw new Refused({ message: 'The server does not answer. Is it still running?' });
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Refused(said.error, response.status, said);
}

/** The objects of a response's events, up to [DONE]. An error among them is thrown. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Refused({ message: 'The connection ended before the answer did.' });
      held += value;
      const whole = held.split('\n\n');
      held = whole.pop();
      for (const event of whole) {
        const data = event.split('\n').filter((line) => line.startsWith('data:')).map((line) => line.slice(5).trim()).join('\n');
        if (data === '[DONE]') return;
        if (!data) continue;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Refused(chunk.error);
        yield chunk;
      }
    }
  } finally {
    // Whoever stops reading early ends the request as well.
    reader.cancel().catch(() => {});
  }
}

/** Ends a request at the server. */
export async function cancel(id) {
  await call(`v1/requests/${encodeURIComponent(id)}`, { method: 'DELETE' }).catch(() => {});
}

/** Prometheus' text as a list of series. */
export function series(text) {
  const found = [];
  for (const line of text.split('\n')) {
    const parts = /^([\w:]+)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!parts) continue;
    const labels = {};
    for (const [, name, value] of (parts[2] ?? '').matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      labels[name] = value.replace(/\\(.)/g, (_, sign) => (sign === 'n' ? '\n' : sign));
    }
    found.push({ name: parts[1], labels, value: Number(parts[3]) });
  }
  return found;
}
