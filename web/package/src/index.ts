// @remask/web: diffusion language models in the browser.

export { Engine, Generation } from './engine.js';
export {
  DeviceLostError,
  DownloadError,
  LimitsError,
  ModelError,
  NoWebGPUError,
  OutOfMemoryError,
  RemaskError,
  RequestError,
  type ErrorKind,
} from './errors.js';
export type { ChatCompletion, ChatCompletionChunk, ChatCompletionRequest, Completions, Usage } from './openai.js';
export {
  hole,
  type AcceptanceStats,
  type DecodeSettings,
  type DeviceInfo,
  type EngineInfo,
  type EngineStats,
  type GenerateOptions,
  type Hole,
  type LoadOptions,
  type PassTimes,
  type Message,
  type MorSettings,
  type MorStats,
  type Position,
  type PositionState,
  type Progress,
  type Prompt,
  type Result,
  type Step,
  type VerifyReport,
} from './types.js';
