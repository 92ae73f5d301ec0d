// The public shapes of requests and answers. Names are those of the native program's options.

/** One message of a conversation. */
export interface Message {
  role: 'system' | 'user' | 'assistant' | (string & {});
  content: string;
}

/** A gap of a number of tokens in a text for {@link Engine.fill}; made by {@link hole}. */
export interface Hole {
  hole: number;
}

/** A gap of `tokens` tokens. */
export function hole(tokens: number): Hole {
  return { hole: tokens };
}

/** What to write from: text for the chat template, a conversation, or text or ids to continue as they are. */
export type Prompt = string | Message[] | { raw: string } | { ids: number[] };

/** Settings of a generation: the command line's options, in JavaScript's spelling. */
export interface DecodeSettings {
  /** Masked tokens to fill in after the prompt; 64. */
  maxTokens?: number;
  /** Steps over all blocks; one a token by default. */
  steps?: number;
  /** Tokens decided together before the next ones are looked at; 32. */
  blockLength?: number;
  /** Gumbel noise; 0 takes the likeliest token. */
  temperature?: number;
  /** Seed of every random choice; 0. */
  seed?: number;
  /** Commit every token at least this probable, in place of a fixed number a step. */
  threshold?: number;
  /** Which tokens of a step are committed first. */
  remasking?: 'low-confidence' | 'random';
  /** Classifier-free guidance strength; doubles the work. */
  cfgScale?: number;
  /** Stop where the answer has ended; true. */
  earlyStop?: boolean;
  /** What passes may reuse of the passes before them. */
  cache?: 'none' | 'prefix' | 'dual' | 'delayed' | 'vicinity';
  /** Delayed cache: compute everything every this many steps of a block; 8. */
  cacheRefresh?: number;
  /** Vicinity cache: positions before the block that are computed with it; 16. */
  prefixLook?: number;
  /** Vicinity cache: positions behind the block that are computed with it; 16. */
  afterLook?: number;
  /** Vicinity cache: passes at the start that compute everything; 4. */
  warmUp?: number;
  /** Mixture of recursions: compute hard tokens more often than easy ones. */
  mor?: boolean;
  /** Passes of a cycle for the easiest tokens; 1. */
  morMinRecursions?: number;
  /** Passes of a cycle for the hardest tokens; 4. */
  morMaxRecursions?: number;
  /** What makes a token hard. */
  morStrategy?: 'confidence' | 'entropy' | 'margin' | 'gradient' | 'fixed';
  /** Tokens at least this certain are easy; 0.9. */
  morConfidenceHigh?: number;
  /** Tokens at most this certain are hard; 0.5. */
  morConfidenceLow?: number;
  /** Tokens at least this certain are not computed again in a cycle; 0.95. null makes no exception. */
  morSkipThreshold?: number | null;
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
  /** The token's text. */
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
  /** Positions that this pass decided, best first. */
  decided: number[];
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
  mor: MorStats | null;
  /** Times the device was lost and made anew meanwhile. */
  devicesLost: number;
  /** Adjustments made to the request, in sentences. */
  notes: string[];
  /** Milliseconds from the request to its end. */
  milliseconds: number;
  /** Positions that were decided. */
  decidedTokens: number;
  /** Decided positions a second. */
  tokensPerSecond: number;
  /** Mean of the passes but the first, which compiles. */
  millisecondsPerPass: number;
}

/** How far a load is. */
export interface Progress {
  /** What is going on. */
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
  /** Whether every file's SHA-256 was compared with the model's manifest. */
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
