// Writes native-ids.json: what the native program generates for twenty prompts, for the browser to agree
// with. Run from the repository root after `cargo build --release`: node web/tests/native-ids.mjs
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';

// Presets follow what is measured; the plain one stays.
const plain = { preset: 'quality' };
const sure = { ...plain, threshold: 0.9 };
const cases = [
  ['What is the capital of France?', { maxTokens: 12, ...sure }],
  ['What color is the sky?', { ...plain, maxTokens: 8, steps: 4 }],
  ['How many legs does a dog have?', { maxTokens: 12, ...sure, mor: { maxRecursions: 4 } }],
  ['What do bees make?', { ...plain, maxTokens: 8, steps: 4, temperature: 0.7, seed: 11 }],
  ['What is the opposite of hot?', { maxTokens: 12, ...sure, cache: 'dual', blockLength: 6 }],
  ['Who lives in a barn?', { maxTokens: 12, ...sure, cache: 'vicinity:8,8,2', freeTail: true }],
  ['What do cows drink?', { ...plain, maxTokens: 8, accept: 'random', seed: 5 }],
  ['Why should we share our toys?', { maxTokens: 16, ...sure, mor: { maxRecursions: 4 } }],
  ['What is two plus two?', { ...plain, maxTokens: 8, accept: 'entropy:0.2' }],
  ['What do you wear when it rains?', { maxTokens: 12, ...sure, cache: 'prefix', blockLength: 6 }],
  ['Where do fish live?', { ...plain, maxTokens: 8, steps: 4, cfgScale: 0.5 }],
  ['What is the name of a baby cat?', { ...plain, maxTokens: 12, accept: 'margin:0.8' }],
  ['Which animal says moo?', { ...plain, maxTokens: 8, steps: 4, mor: { strategy: 'entropy', maxRecursions: 4 } }],
  ['What do we use to write?', { maxTokens: 8, ...sure, cache: 'delayed:4' }],
  ['What is the capital of Italy?', { maxTokens: 12, ...sure, cache: 'vicinity:4,4,1', blockLength: 6 }],
  ['Tell me about a dog.', { ...plain, maxTokens: 16, steps: 8 }],
  ['What does the sun do?', { maxTokens: 8, ...sure, mor: { strategy: 'gradient', maxRecursions: 3 } }],
  ['Why do we sleep?', { ...plain, maxTokens: 12, accept: 'credit:0.9', temperature: 0.3, seed: 3 }],
  ['What grows in a garden?', { maxTokens: 8, ...sure, revise: 'verify:0.6,1' }],
  ['What is ice made of?', { ...plain, maxTokens: 8, accept: 'local-leap:0.9,0.75,4', mor: { strategy: 'margin', skipThreshold: null, maxRecursions: 4 } }],
];

/** A setting as the command line spells it. */
function flags([name, value], prefix = '--') {
  if (name === 'preset') return value === 'balanced' ? [] : [`--${value}`];
  if (name === 'skipThreshold' && value === null) return ['--mor-no-skip'];
  const flag = prefix + name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  if (value === true) return [flag];
  if (typeof value === 'object') return [flag, ...Object.entries(value).flatMap((entry) => flags(entry, `${flag}-`))];
  return [flag, String(value)];
}

const results = cases.map(([prompt, settings]) => {
  const args = ['generate', prompt, '--json', ...Object.entries(settings).flatMap((entry) => flags(entry))];
  const { text, token_ids, forward_passes, rows_computed } = JSON.parse(execFileSync('target/release/remask', args, { encoding: 'utf8' }));
  console.log(`${prompt} ${text} (${forward_passes} passes)`);
  return { prompt, settings, text, tokenIds: token_ids, forwardPasses: forward_passes, rowsComputed: rows_computed };
});
const lines = results.map((result) => `  ${JSON.stringify(result)}`).join(',\n');
writeFileSync(new URL('native-ids.json', import.meta.url), `[\n${lines}\n]\n`);
