// Chat completions in OpenAI's shape, for code that was written for it.

import type { Engine } from './engine.js';
import { makeError } from './errors.js';
import type { DecodeSettings, GenerateOptions, Message, Result, Step } from './types.js';

/** A request. Beside OpenAI's fields it takes every setting of {@link DecodeSettings}, also in snake_case. */
export interface ChatCompletionRequest extends DecodeSettings {
  messages: Message[];
  model?: string;
  stream?: boolean | null;
  stream_options?: { include_usage?: boolean } | null;
  max_tokens?: number | null;
  max_completion_tokens?: number | null;
  /** Only 1. */
  n?: number | null;
  user?: string;
  [setting: string]: unknown;
}

/** Tokens of a request, and what they cost here. */
export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
}

/** A finished completion. */
export interface ChatCompletion {
  id: string;
  object: 'chat.completion';
  created: number;
  model: string;
  choices: {
    index: 0;
    message: { role: 'assistant'; content: string };
    finish_reason: 'stop' | 'length';
    logprobs: null;
  }[];
  usage: Usage;
}

/** A piece of a completion under way. */
export interface ChatCompletionChunk {
  id: string;
  object: 'chat.completion.chunk';
  created: number;
  model: string;
  choices: {
    index: 0;
    delta: { role?: 'assistant'; content?: string };
    finish_reason: 'stop' | 'length' | null;
    logprobs: null;
  }[];
  usage?: Usage | null;
}

const camel = (name: string) => name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());

/** `engine.chat.completions`. */
export class Completions {
  private readonly engine: Engine;

  /** @internal */
  constructor(engine: Engine) {
    this.engine = engine;
  }

  /** Answers a conversation; with `stream: true` piece by piece, as text becomes final from the left. */
  create(request: ChatCompletionRequest & { stream: true }, options?: { signal?: AbortSignal }): Promise<AsyncIterable<ChatCompletionChunk>>;
  create(request: ChatCompletionRequest & { stream?: false | null }, options?: { signal?: AbortSignal }): Promise<ChatCompletion>;
  async create(
    request: ChatCompletionRequest,
    options: { signal?: AbortSignal } = {},
  ): Promise<ChatCompletion | AsyncIterable<ChatCompletionChunk>> {
    const { messages, model, stream, stream_options, max_tokens, max_completion_tokens, n, user: _, ...others } = request;
    if (n !== undefined && n !== null && n !== 1) {
      throw makeError('request', `n is ${n}; one answer a request is supported`);
    }
    const settings: GenerateOptions = Object.fromEntries(
      Object.entries(others)
        .filter(([, value]) => value !== undefined)
        .map(([name, value]) => [camel(name), value]),
    );
    const length = max_completion_tokens ?? max_tokens;
    if (length !== undefined && length !== null) settings.maxTokens = length;
    if (options.signal) settings.signal = options.signal;
    const generation = this.engine.generate(messages, settings);
    const head = {
      id: `chatcmpl-${crypto.randomUUID()}`,
      created: Math.floor(Date.now() / 1000),
      model: model ?? this.engine.info.model.origin,
    };
    if (stream) return chunks(generation, head, stream_options?.include_usage ?? false);
    const result = await generation.result;
    return {
      ...head,
      object: 'chat.completion',
      choices: [
        {
          index: 0,
          message: { role: 'assistant', content: result.text },
          finish_reason: result.finishReason === 'stop' ? 'stop' : 'length',
          logprobs: null,
        },
      ],
      usage: usageOf(result),
    };
  }
}

function usageOf(result: Result): Usage {
  const { promptTokens, completionTokens } = result;
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
  };
}

/**
 * The text that is final: the part of the answer that has no hole before it. White space at its end waits,
 * for an answer is trimmed, and so does a character of which only some bytes are decided.
 */
function settled(step: Step): string {
  return step.text.trimStart().replace(/[\s\uFFFD]+$/u, '');
}

async function* chunks(
  generation: AsyncIterable<Step> & { result: Promise<Result> },
  head: { id: string; created: number; model: string },
  includeUsage: boolean,
): AsyncGenerator<ChatCompletionChunk> {
  type Choice = ChatCompletionChunk['choices'][number];
  const chunk = (delta: Choice['delta'], finish_reason: Choice['finish_reason'] = null): ChatCompletionChunk => ({
    ...head,
    object: 'chat.completion.chunk',
    choices: [{ index: 0, delta, finish_reason, logprobs: null }],
    ...(includeUsage ? { usage: null } : {}),
  });
  yield chunk({ role: 'assistant', content: '' });
  let sent = '';
  for await (const step of generation) {
    const text = settled(step);
    if (text.length > sent.length && text.startsWith(sent)) {
      yield chunk({ content: text.slice(sent.length) });
      sent = text;
    }
  }
  const result = await generation.result;
  if (result.text.length > sent.length) yield chunk({ content: result.text.slice(sent.length) });
  yield chunk({}, result.finishReason === 'stop' ? 'stop' : 'length');
  if (includeUsage) yield { ...head, object: 'chat.completion.chunk', choices: [], usage: usageOf(result) };
}
