// Writes native-ids.json: what the native program generates for twenty prompts, for the browser to agree
// with. Run from the repository root after `cargo build --release`: node web/tests/native-ids.mjs
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';

const sure = { threshold: 0.9 };
const cases = [
  ['What is the capital of France?', { maxTokens: 12, ...sure }],
  ['What color is the sky?', { maxTokens: 8, steps: 4 }],
  ['Who lives in a barn?', { maxTokens: 8, ...sure, mor: true }],
  ['What do bees make?', { maxTokens: 8, steps: 4, temperature: 0.7, seed: 11 }],
  ['What is the opposite of hot?', { maxTokens: 12, ...sure, cache: 'dual', blockLength: 6 }],
  ['How many legs does a dog have?', { maxTokens: 12, ...sure }],
  ['What do cows drink?', { maxTokens: 8, steps: 8, remasking: 'random', seed: 5 }],
  ['Why should we share our toys?', { maxTokens: 16, ...sure, mor: true }],
  ['What is two plus two?', { maxTokens: 8, ...sure }],
  ['What do you wear when it rains?', { maxTokens: 12, ...sure, cache: 'prefix', blockLength: 6 }],
  ['Where do fish live?', { maxTokens: 8, steps: 4, cfgScale: 0.5 }],
  ['What is the name of a baby cat?', { maxTokens: 12, ...sure }],
  ['Which animal says moo?', { maxTokens: 8, steps: 4, mor: true, morStrategy: 'entropy' }],
  ['What do we use to write?', { maxTokens: 8, ...sure, cache: 'delayed' }],
  ['What is the capital of Italy?', { maxTokens: 12, ...sure, cache: 'vicinity', blockLength: 6 }],
  ['Tell me about a dog.', { maxTokens: 16, steps: 8 }],
  ['What does the sun do?', { maxTokens: 8, steps: 4, mor: true, morStrategy: 'gradient' }],
  ['Why do we sleep?', { maxTokens: 12, ...sure, temperature: 0.3, seed: 3 }],
  ['What grows in a garden?', { maxTokens: 8, ...sure }],
  ['What is ice made of?', { maxTokens: 8, steps: 4, mor: true, morStrategy: 'margin', morSkipThreshold: null }],
];

/** A setting as the command line spells it. */
function flags([name, value]) {
  const flag = `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
  if (name === 'morSkipThreshold' && value === null) return ['--mor-no-skip'];
  return value === true ? [flag] : [flag, String(value)];
}

const results = cases.map(([prompt, settings]) => {
  const args = ['generate', prompt, '--json', ...Object.entries(settings).flatMap(flags)];
  const { text, token_ids, forward_passes, rows_computed } = JSON.parse(execFileSync('target/release/remask', args, { encoding: 'utf8' }));
  console.log(`${prompt} ${text} (${forward_passes} passes)`);
  return { prompt, settings, text, tokenIds: token_ids, forwardPasses: forward_passes, rowsComputed: rows_computed };
});
const lines = results.map((result) => `  ${JSON.stringify(result)}`).join(',\n');
writeFileSync(new URL('native-ids.json', import.meta.url), `[\n${lines}\n]\n`);
