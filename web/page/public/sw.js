// Keeps the page itself, so that it opens without a network. Models are kept by the engine.
const KEPT = 'remask-page';

self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));
self.addEventListener('fetch', (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== 'GET' || url.origin !== location.origin || url.pathname.includes('/models/')) return;
  event.respondWith(
    (async () => {
      const kept = await caches.open(KEPT);
      try {
        const response = await fetch(request);
        if (response.ok) await kept.put(request, response.clone());
        return response;
      } catch (error) {
        const copy = await kept.match(request, { ignoreSearch: request.mode === 'navigate' });
        if (copy) return copy;
        throw error;
      }
    })(),
  );
});
