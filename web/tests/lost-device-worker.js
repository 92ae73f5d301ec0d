// The package's worker on a device that the test can destroy: a message 'destroy' takes away the newest one.
let device;
const request = GPUAdapter.prototype.requestDevice;
GPUAdapter.prototype.requestDevice = async function (descriptor) {
  device = await request.call(this, descriptor);
  return device;
};
self.addEventListener('message', (event) => {
  if (event.data !== 'destroy') return;
  event.stopImmediatePropagation();
  device.destroy();
});
// Messages that come while the module is on its way wait for it.
const early = [];
const hold = (event) => early.push(event.data);
self.addEventListener('message', hold);
await import('/dist/worker.js');
self.removeEventListener('message', hold);
for (const data of early) self.dispatchEvent(new MessageEvent('message', { data }));
