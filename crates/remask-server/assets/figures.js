// What the server is doing, from its metrics, which are read once a second.

const number = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });

/** The last minute. */
const past = [];

const set = (id, text) => { document.getElementById(id).textContent = text; };

/** Shows the figures that a list of series gives. */
export function drawFigures(all) {
  const sum = (name) => all.filter((one) => one.name === name).reduce((total, one) => total + one.value, 0);
  // Tokens as passes commit them: the counter of answers' tokens moves only when an answer is whole.
  past.push({ at: performance.now(), tokens: sum('dfastllm_parallel_batch_size_sum') });
  if (past.length > 61) past.shift();
  // A server that was started anew counts from 0.
  const rates = past.slice(1).map((now, i) => (1000 * Math.max(0, now.tokens - past[i].tokens)) / (now.at - past[i].at));
  // What is shown is the mean of three seconds.
  const recent = rates.slice(-3);
  const rate = recent.reduce((total, one) => total + one, 0) / Math.max(1, recent.length);
  const [rows, full] = [sum('remask_rows_computed_total'), sum('remask_rows_of_full_compute_total')];
  set('running', number.format(sum('dfastllm_num_requests_running')));
  set('waiting', number.format(sum('dfastllm_num_requests_waiting')));
  set('passes', number.format(sum('remask_forward_passes_total')));
  set('speed', number.format(rate));
  set('rows', full ? `${number.format((100 * rows) / full)} %` : '–');
  document.getElementById('share').value = full ? rows / full : 0;
  const most = Math.max(1, ...rates);
  const point = (value, i) => `${(120 * (i + 60 - rates.length)) / 59},${27 - (26 * value) / most}`;
  document.getElementById('spark').setAttribute('points', rates.map(point).join(' '));
}
