// What the page and the worker say to each other.

import type { ErrorKind } from './errors.js';
import type { EngineInfo, LoadOptions, Progress, Result } from './types.js';

/** Where a model comes from. */
export type Source = { url: string } | { files: File[] };

/** To the worker. Every request has an id; an abort names the request it ends. */
export type ToWorker = { id: number } & (
  | { type: 'load'; source: Source; options: Pick<LoadOptions, 'device' | 'weights' | 'cache'> }
  | { type: 'generate'; prompt: string; settings: string }
  | { type: 'verify'; cases: string; tensors: Uint8Array; every: number }
  | { type: 'bench'; rows: number; context: number; repeats: number }
  | { type: 'encode'; text: string }
  | { type: 'decode'; ids: number[] }
  | { type: 'forget'; url: string }
  | { type: 'abort' }
);

/** A step as it crosses over: arrays by position. */
export interface StepArrays {
  pass: number;
  block?: Uint32Array;
  tokens: Uint32Array;
  texts: string[];
  states: Uint8Array;
  probabilities?: Float32Array;
  depths?: Uint32Array;
  decided?: Uint32Array;
  decidedAt?: Uint32Array;
  remasked?: Uint32Array;
  computed?: Uint32Array;
  text?: string;
  rowsComputed?: number;
  rowsOfFullCompute?: number;
  milliseconds: number;
  passMilliseconds: number;
}

/** The core's answer to a generation, before times are added. */
export type CoreResult = Omit<
  Result,
  'milliseconds' | 'tokensPerSecond' | 'millisecondsPerPass'
>;

/** From the worker. */
export type FromWorker = { id: number } & (
  | { type: 'progress'; progress: Progress }
  | { type: 'step'; step: StepArrays }
  | { type: 'lost'; reason: string }
  | { type: 'count'; done: number; total: number }
  | { type: 'loaded'; info: EngineInfo; wasmBytes: number }
  | { type: 'generated'; result: Result; wasmBytes: number }
  | { type: 'answer'; value: unknown }
  | { type: 'aborted' }
  | { type: 'error'; kind: ErrorKind; message: string; fix?: string }
);
