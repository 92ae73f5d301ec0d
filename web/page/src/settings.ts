// The settings panel: one description of every setting, from which its field is made.

import type { DecodeSettings } from '@remask/web';

/** Settings of one run, as the panel holds them. */
export interface Settings {
  rule: 'quota' | 'random' | 'threshold' | 'entropy' | 'margin' | 'credit';
  steps: number;
  threshold: number;
  entropy: number;
  margin: number;
  cache: 'none' | 'prefix' | 'dual' | 'delayed' | 'vicinity';
  freeTail: boolean;
  mor: boolean;
  strategy: 'confidence' | 'entropy' | 'margin' | 'gradient' | 'fixed';
  maxRecursions: number;
  maxTokens: number;
  blockLength: number;
  temperature: number;
  seed: number;
}

export const DEFAULTS: Settings = {
  rule: 'quota',
  steps: 32,
  threshold: 0.9,
  entropy: 0.15,
  margin: 0.8,
  cache: 'none',
  freeTail: false,
  mor: false,
  strategy: 'confidence',
  maxRecursions: 4,
  maxTokens: 32,
  blockLength: 32,
  temperature: 0,
  seed: 0,
};

/** The rule with its number, as the engine reads it. */
function accept(s: Settings): string {
  switch (s.rule) {
    case 'threshold':
    case 'credit':
      return `${s.rule}:${s.threshold}`;
    case 'entropy':
      return `entropy:${s.entropy}`;
    case 'margin':
      return `margin:${s.margin}`;
    default:
      return s.rule;
  }
}

/** Whether a pass commits a fixed share. */
const shares = (s: Settings) => s.rule === 'quota' || s.rule === 'random';

/** What the engine is asked for. */
export function asOptions(s: Settings, fill: boolean): DecodeSettings {
  return {
    preset: 'quality',
    ...(fill ? {} : { maxTokens: s.maxTokens, blockLength: s.blockLength, ...(shares(s) ? { steps: s.steps } : {}) }),
    accept: accept(s),
    temperature: s.temperature,
    seed: s.seed,
    cache: s.cache,
    freeTail: s.freeTail,
    ...(s.mor ? { mor: { strategy: s.strategy, maxRecursions: s.maxRecursions } } : {}),
  };
}

/** Settings in a few words. */
export function summary(s: Settings): string {
  const words = [shares(s) ? `${s.steps} steps` : accept(s).replace(':', ' ')];
  if (s.rule === 'random') words.push('random order');
  if (s.cache !== 'none') words.push(`${s.cache} cache`);
  if (s.mor) words.push('adaptive depth');
  if (s.temperature > 0) words.push(`temperature ${s.temperature}`);
  return words.join(', ');
}

interface NumberField {
  kind: 'number';
  key: 'maxTokens' | 'blockLength' | 'steps' | 'threshold' | 'entropy' | 'margin' | 'temperature' | 'seed' | 'maxRecursions';
  min: number;
  max: number;
  step: number;
}
interface ChoiceField {
  kind: 'choice';
  key: 'rule' | 'cache' | 'strategy';
  choices: [value: string, label: string][];
}
interface SwitchField {
  kind: 'switch';
  key: 'mor' | 'freeTail';
}
type Field = (NumberField | ChoiceField | SwitchField) & { label: string; help: string; when?: (s: Settings) => boolean };

const GROUPS: { title: string; fields: Field[] }[] = [
  {
    title: 'Decoder',
    fields: [
      {
        kind: 'choice', key: 'rule', label: 'A pass keeps',
        help: 'Which of the proposed tokens become final.',
        choices: [
          ['quota', 'the surest few'], ['random', 'a few at random'], ['threshold', 'what is sure'],
          ['entropy', 'low entropy'], ['margin', 'clear winners'], ['credit', 'sure for long'],
        ],
      },
      { kind: 'number', key: 'steps', label: 'Steps', help: 'Passes for the whole answer; fewer commit more each.', min: 1, max: 448, step: 1, when: shares },
      { kind: 'number', key: 'threshold', label: 'Sure from', help: 'Probability from which a token is committed.', min: 0, max: 1, step: 0.01, when: (s) => s.rule === 'threshold' || s.rule === 'credit' },
      { kind: 'number', key: 'entropy', label: 'Nats', help: 'Entropy that may be committed at once.', min: 0, max: 8, step: 0.05, when: (s) => s.rule === 'entropy' },
      { kind: 'number', key: 'margin', label: 'Margin', help: 'Lead over the runner-up from which a token is committed.', min: 0, max: 1, step: 0.01, when: (s) => s.rule === 'margin' },
      {
        kind: 'choice', key: 'cache', label: 'Reuse', help: 'Keys and values of earlier passes that are not computed again.',
        choices: [['none', 'nothing'], ['prefix', 'before the block'], ['dual', 'all but the block'], ['delayed', 'decided tokens'], ['vicinity', 'all but nearby']],
      },
      { kind: 'switch', key: 'freeTail', label: 'Drop the tail', help: 'Stop computing what stands behind the end of the answer.' },
    ],
  },
  {
    title: 'Mixture of recursions',
    fields: [
      { kind: 'switch', key: 'mor', label: 'Adaptive depth', help: 'Compute hard tokens again and leave easy ones alone.' },
      {
        kind: 'choice', key: 'strategy', label: 'Hard is', help: 'What makes a token hard.',
        choices: [['confidence', 'unsure'], ['entropy', 'many options'], ['margin', 'a close call'], ['gradient', 'still changing'], ['fixed', 'everything']],
        when: (s) => s.mor,
      },
      { kind: 'number', key: 'maxRecursions', label: 'Deepest', help: 'Passes of a cycle for the hardest tokens.', min: 1, max: 12, step: 1, when: (s) => s.mor },
    ],
  },
  {
    title: 'Text',
    fields: [
      { kind: 'number', key: 'maxTokens', label: 'Length', help: 'Masked tokens to fill in.', min: 1, max: 448, step: 1 },
      { kind: 'number', key: 'blockLength', label: 'Block', help: 'Tokens that are decided together.', min: 1, max: 448, step: 1 },
      { kind: 'number', key: 'temperature', label: 'Temperature', help: '0 takes the likeliest token.', min: 0, max: 2, step: 0.05 },
      { kind: 'number', key: 'seed', label: 'Seed', help: 'The same seed gives the same text.', min: 0, max: 4294967295, step: 1 },
    ],
  },
];

/** A new element with some properties. */
function element<K extends keyof HTMLElementTagNameMap>(tag: K, properties: object = {}): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  Object.assign(made, properties);
  return made;
}

/** Fills `root` with the fields of `settings`, which they change. */
export function panel(root: HTMLElement, name: string, settings: Settings, changed: () => void): void {
  root.replaceChildren();
  const fields: { field: Field; row: HTMLElement }[] = [];
  const refresh = () => {
    for (const { field, row } of fields) row.hidden = field.when !== undefined && !field.when(settings);
    changed();
  };
  for (const group of GROUPS) {
    const set = element('fieldset');
    set.append(element('legend', { textContent: group.title }));
    for (const field of group.fields) {
      const id = `${name}-${field.key}`;
      const row = element('div', { className: `field ${field.kind}`, title: field.help });
      const label = element('label', { htmlFor: id, textContent: field.label });
      row.append(label, input(field, id, settings, refresh));
      fields.push({ field, row });
      set.append(row);
    }
    root.append(set);
  }
  refresh();
}

function input(field: Field, id: string, settings: Settings, refresh: () => void): HTMLElement {
  if (field.kind === 'choice') {
    const select = element('select', { id });
    for (const [value, label] of field.choices) select.append(element('option', { value, textContent: label }));
    select.value = settings[field.key];
    select.addEventListener('change', () => {
      Object.assign(settings, { [field.key]: select.value });
      refresh();
    });
    return select;
  }
  if (field.kind === 'switch') {
    const box = element('input', { id, type: 'checkbox', checked: settings[field.key], role: 'switch' });
    box.addEventListener('change', () => {
      settings[field.key] = box.checked;
      refresh();
    });
    return box;
  }
  const { min, max, step } = field;
  const number = element('input', {
    id, type: 'number', inputMode: 'decimal',
    min: String(min), max: String(max), step: String(step), value: String(settings[field.key]),
  });
  number.addEventListener('change', () => {
    const value = Number(number.value);
    const whole = step === 1 ? Math.round(value) : value;
    settings[field.key] = Number.isFinite(value) ? Math.min(max, Math.max(min, whole)) : DEFAULTS[field.key];
    number.value = String(settings[field.key]);
    refresh();
  });
  return number;
}
