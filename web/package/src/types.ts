// The public shapes of requests and answers. Names are those of the native program's options.

/** One message of a conversation. */
export interface Message {
  role: 'system' | 'user' | 'assistant' | (string & {});
  content: string;
}

/** A gap in a text for {@link Engine.fill}: of a number of tokens, or of a least and a most; made by {@link hole}. */
export interface Hole {
  hole: number | [least: number, most: number];
}

/** A gap of `tokens` tokens, or of as many from `tokens` to `most` as fit best. */
export function hole(tokens: number, most?: number): Hole {
  return { hole: most === undefined ? tokens : [tokens, most] };
}

/** What to write from: text for the chat template, a conversation, or text or ids to continue as they are. */
export type Prompt = string | Message[] | { raw: string } | { ids: number[] };

/** Settings of mixture of recursions. */
export interface MorSettings {
  /** Passes of a cycle for the easiest tokens; 1. */
  minRecursions?: number;
  /** Passes of a cycle for the hardest tokens; 4. */
  maxRecursions?: number;
  /** What makes a token hard. */
  strategy?: 'confidence' | 'entropy' | 'margin' | 'gradient' | 'fixed';
  /** Tokens at least this certain are easy; 0.9. */
  confidenceHigh?: number;
  /** Tokens at most this certain are hard; 0.5. */
  confidenceLow?: number;
  /** Tokens at least this certain are not computed again in a cycle; 0.95. null makes no exception. */
  skipThreshold?: number | null;
  /** Compute all tokens that are deep enough in one pass; true. */
  batchByDifficulty?: boolean;
}

/**
 * Settings of a generation: a preset, and what is wanted otherwise. Names and values are the native
 * program's, in JavaScript's spelling; a name that it does not have is refused.
 */
export interface DecodeSettings {
  /** Where to start from; 'balanced'. */
  preset?: 'quality' | 'balanced' | 'fast';
  /** Masked tokens to fill in after the prompt; 64. */
  maxTokens?: number;
  /** Steps over all blocks, where a pass commits a share; one a token by default. */
  steps?: number;
  /** Tokens decided together before the next ones are looked at. */
  blockLength?: number;
  /**
   * What a pass commits: 'quota' or 'random' (a share of the tokens), 'threshold:P', 'factor:F',
   * 'entropy:NATS', 'margin:P', 'hierarchy:P,LOW', 'credit:P', 'local-leap:P,RELAXED,RADIUS',
   * 'parallel:MOST,P'.
   */
  accept?: string;
  /** Short for accept: 'threshold:P'. */
  threshold?: number;
  /** Gumbel noise; 0 takes the likeliest token. */
  temperature?: number;
  /** Seed of every random choice; 0. */
  seed?: number;
  /** Classifier-free guidance strength; doubles the work. */
  cfgScale?: number;
  /** What passes reuse: 'none', 'prefix', 'dual', 'delayed:REFRESH' or 'vicinity:BEFORE,AFTER,WARM_UP'. */
  cache?: string;
  /** Mixture of recursions: compute hard tokens more often than easy ones. */
  mor?: boolean | MorSettings;
  /** Finish a block when its tokens are sure: 'P,MIN_STEPS,PATIENCE'. */
  adaptiveSteps?: string;
  /** Look again at decided tokens: 'verify:P,ROUNDS' or 'edit:P,ROUNDS'. */
  revise?: string;
  /** Stop where the answer has ended. */
  earlyStop?: boolean;
  /** Fill everything behind the answer's end at once and stop computing it. */
  freeTail?: boolean;
}

/** Settings of a generation, and a way to end it. */
export interface GenerateOptions extends DecodeSettings {
  signal?: AbortSignal;
}

/** Where a position stands. */
export type PositionState = 'given' | 'hole' | 'proposed' | 'decided';

/** One position of the canvas after a step. */
export interface Position {
  /** Token id: given, decided, what the model would put there, or the mask. */
  id: number;
  /** The token's text; empty in a hole, and where its bytes are the beginning of a character that a later token ends. */
  text: string;
  state: PositionState;
  /** Probability the model gave a decided or proposed token; 0 elsewhere. */
  probability: number;
  /** Passes in which the position was computed while it was a hole of the block at work. */
  depth: number;
  /** The pass that decided it, counted from 1. */
  decidedAt?: number;
  /** Whether the latest pass computed this position. */
  computed: boolean;
  /** Whether its token ends an answer. */
  stop: boolean;
}

/** The canvas after a pass. */
export interface Step {
  /** Passes run so far; 0 is the canvas before the first. */
  pass: number;
  /** Positions of the block at work, end excluded. */
  block: [start: number, end: number];
  /** Every position, prompt and answer. */
  positions: Position[];
  /** Positions that this pass decided or replaced, best first. */
  decided: number[];
  /** Positions that were decided and are holes again. */
  remasked: number[];
  /** The answer up to its first hole or end; for gaps, everything that is known. */
  text: string;
  /** Rows computed so far. */
  rowsComputed: number;
  /** Rows that full compute would have computed in as many passes. */
  rowsOfFullCompute: number;
  /** Milliseconds since the request began. */
  milliseconds: number;
  /** Milliseconds that this pass took. */
  passMilliseconds: number;
}

/** What mixture of recursions did, counted from rows that were really computed. */
export interface MorStats {
  total_steps: number;
  total_tokens_processed: number;
  tokens_skipped: number;
  easy_tokens: number;
  medium_tokens: number;
  hard_tokens: number;
  total_recursions: number;
  compute_saved_pct: number;
  avg_recursions_per_token: number;
}

/** What became of the candidates of a generation. */
export interface AcceptanceStats {
  tokens_accepted: number;
  tokens_rejected: number;
  finished_early: number;
  tokens_revised: number;
  tokens_remasked: number;
  tokens_padded: number;
}

/** A finished generation and what it cost. */
export interface Result {
  /** The answer; for gaps, the whole text. */
  text: string;
  /** Ids of the answer, up to its end; for gaps, of the whole canvas. */
  tokenIds: number[];
  /** Ids of the whole canvas. */
  canvasIds: number[];
  promptTokens: number;
  completionTokens: number;
  /** The answer ended, every hole was filled, or the request was aborted. */
  finishReason: 'stop' | 'length' | 'aborted';
  forwardPasses: number;
  rowsComputed: number;
  rowsSelected: number;
  rowsOfFullCompute: number;
  /** Passes of each position; see {@link Position.depth}. */
  depth: number[];
  acceptance: AcceptanceStats;
  mor: MorStats | null;
  /** Times the device was lost and made anew meanwhile. */
  devicesLost: number;
  /** Adjustments made to the request, in sentences. */
  notes: string[];
  /** Milliseconds from the request to its end. */
  milliseconds: number;
  /** Positions that were decided, padding behind the end left out. */
  decidedTokens: number;
  /** Decided positions a second. */
  tokensPerSecond: number;
  /** Mean of the passes but the first, which compiles. */
  millisecondsPerPass: number;
}

/** How far a load is. */
export interface Progress {
  /** What is going on: 'read' is about what earlier loads kept, 'upload' about bytes on their way to the GPU. */
  phase: 'download' | 'read' | 'upload' | 'ready';
  /** The file at hand, where there is one. */
  file: string;
  /** Bytes done in this phase, over all files. */
  loaded: number;
  /** Bytes of this phase; 0 where nobody knows. */
  total: number;
  /** Bytes that did not have to be downloaded. */
  fromCache: number;
}

/** The device the engine runs on. */
export interface DeviceInfo {
  name: string;
  api: string;
  kind: string;
  shader_f16: boolean;
  limits: Record<string, number>;
}

/** What was loaded. */
export interface EngineInfo {
  model: {
    origin: string;
    architecture: string;
    layers: number;
    hidden: number;
    heads: number;
    vocabulary: number;
    maxPositions: number;
    maskId: number;
    stopIds: number[];
    hasTokenizer: boolean;
  };
  /** Format of the weights on the device. */
  weights: string;
  /** Their bytes. */
  weightBytes: number;
  device: DeviceInfo;
  /**
   * Whether every file's SHA-256 was compared with the model's manifest when it was downloaded. Kept files are
   * compared with checksums from then at every load.
   */
  verified: boolean;
  /** Whether the files are kept for the next load. */
  cached: boolean;
  /** Milliseconds of the load. */
  loadMilliseconds: number;
}

/** What an engine has done so far. */
export interface EngineStats {
  requests: number;
  forwardPasses: number;
  decidedTokens: number;
  rowsComputed: number;
  rowsOfFullCompute: number;
  milliseconds: number;
  devicesLost: number;
  /** Bytes of the weights on the device. */
  weightBytes: number;
  /** Bytes of the WebAssembly memory. */
  wasmBytes: number;
}

/** How a device compares with a reference implementation. */
export interface VerifyReport {
  pass: boolean;
  logits: { max_abs: number; relative_l2: number };
  cases: {
    label: string;
    pass: boolean;
    result: { first_difference: number | null; forward_passes: number; reference_passes: number | null } | null;
  }[];
}

/** How long passes of some number of rows take, their candidates read back. */
export interface PassTimes {
  rows: number;
  medianMilliseconds: number;
  fastestMilliseconds: number;
}

/** Options of a load. */
export interface LoadOptions {
  onProgress?: (progress: Progress) => void;
  signal?: AbortSignal;
  /** Which device, and with which limits: everything it has, or WebGPU's defaults. */
  device?: { powerPreference?: 'high-performance' | 'low-power'; limits?: 'adapter' | 'default' };
  /** Format of the weights on the device; as they are stored by default. */
  weights?: 'f32' | 'f16' | 'bf16' | 'q8';
  /** Keep downloaded files for the next load; true. */
  cache?: boolean;
  /** A worker that runs this package's `worker` module, for pages that must make their own. */
  worker?: () => Worker;
}
