// What can go wrong, as classes. Every message ends with what to do about it.

/** What kind of failure an error is; one word a class. */
export type ErrorKind =
  | 'no-webgpu'
  | 'limits'
  | 'out-of-memory'
  | 'device-lost'
  | 'device'
  | 'download'
  | 'model'
  | 'request'
  | 'golden'
  | 'disposed'
  | 'internal';

/** Base of every error of this package; aborted requests reject with the signal's reason instead. */
export class RemaskError extends Error {
  override readonly name: string = 'RemaskError';
  /** Which kind, for code that would rather switch than use instanceof. */
  readonly kind: ErrorKind;
  /** What to do about it, in a sentence. Also at the end of the message. */
  readonly fix: string;

  constructor(kind: ErrorKind, problem: string, fix: string) {
    super(fix === '' ? problem : `${problem.replace(/[.\s]+$/, '')}. ${fix}`);
    this.kind = kind;
    this.fix = fix;
  }
}

/** The browser has no WebGPU, or no adapter for it. */
export class NoWebGPUError extends RemaskError {
  override readonly name = 'NoWebGPUError';
}
/** The adapter's limits are too small for the model; the message says which. */
export class LimitsError extends RemaskError {
  override readonly name = 'LimitsError';
}
/** The device or the tab ran out of memory. */
export class OutOfMemoryError extends RemaskError {
  override readonly name = 'OutOfMemoryError';
}
/** The device was lost, and again after it was made anew. */
export class DeviceLostError extends RemaskError {
  override readonly name = 'DeviceLostError';
}
/** A file did not arrive, or not as its hash says. */
export class DownloadError extends RemaskError {
  override readonly name = 'DownloadError';
}
/** The model's files are not what this engine runs. */
export class ModelError extends RemaskError {
  override readonly name = 'ModelError';
}
/** The request cannot be run as asked. */
export class RequestError extends RemaskError {
  override readonly name = 'RequestError';
}

const classes: Partial<Record<ErrorKind, [typeof RemaskError, string]>> = {
  'no-webgpu': [
    NoWebGPUError,
    'Use a current Chrome, Edge, Safari 26 or Firefox over https or localhost, with hardware acceleration switched on.',
  ],
  limits: [LimitsError, 'Use a smaller model or another GPU.'],
  'out-of-memory': [
    OutOfMemoryError,
    "Close other tabs, shorten the canvas, load the weights as 'q8', or use a smaller model.",
  ],
  'device-lost': [DeviceLostError, 'Load the engine again; if it keeps happening, update the graphics driver.'],
  device: [RemaskError, 'Update the browser and the graphics driver.'],
  download: [DownloadError, 'Check the connection and load again: what has arrived is kept.'],
  model: [ModelError, 'Check the model folder.'],
  request: [RequestError, ''],
  golden: [RemaskError, 'Check the golden files.'],
  disposed: [RemaskError, 'Load a new engine.'],
  internal: [RemaskError, 'Load the engine again, and please report this.'],
};

/** The error of a kind, with its usual advice or another. */
export function makeError(kind: ErrorKind, problem: string, fix?: string): RemaskError {
  const [Class, usual] = classes[kind] ?? [RemaskError, ''];
  return new Class(kind, problem, fix ?? usual);
}
