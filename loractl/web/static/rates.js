// How fast things go: what lies between two documents of the server's live state. The same rules as `loractl top`
// (loractl/observability/rates.py), and a test holds the two against each other.

const WINDOW_S = 15;
const LEAST_S = 1e-3;
const MOST_STATES = 600;

const sum = (counts) => Object.values(counts).reduce((all, each) => all + each, 0);

const countsOf = (totals) => [
  totals.requests, sum(totals.errors), sum(totals.refused), totals.input_tokens, totals.output_tokens, totals.busy_s,
  totals.ttft.count, totals.inter_token.count, totals.total.count, totals.queue.count,
];

const mayFollow = (before, after) => {
  if (!before) return true;
  const earlier = countsOf(before);
  return countsOf(after).every((later, i) => earlier[i] <= later);
};

const elapsedBetween = (before, after) => {
  if (before.base.name !== after.base.name || before.base.digest !== after.base.digest) return null;
  const isSteady = typeof before.uptime_s === "number" && typeof after.uptime_s === "number";
  const elapsed = isSteady ? after.uptime_s - before.uptime_s : (Date.parse(after.at) - Date.parse(before.at)) / 1000;
  return elapsed >= LEAST_S ? elapsed : null;
};

// The latency that `share` of the observations between the two did not exceed, interpolated within its bucket.
export const quantile = (share, before, after) => {
  const count = after.count - (before ? before.count : 0);
  if (count <= 0) return null;
  const earlier = new Map(before ? before.buckets : []);
  const rank = share * count;
  let below = 0, low = 0;
  for (const [high, cumulative] of after.buckets) {
    const total = cumulative - (earlier.get(high) ?? 0);
    if (total > below && total >= rank) {
      return { seconds: low + ((high - low) * (rank - below)) / (total - below), isBeyond: false };
    }
    below = total;
    low = high;
  }
  return { seconds: low, isBeyond: true };
};

const latencyOf = (before, after) => ({
  p50: quantile(0.5, before, after),
  p99: quantile(0.99, before, after),
});

const shareOf = (part, whole) => (whole > 0 ? Math.min(part / whole, 1) : null);

const ratesOf = (before, after, elapsed, allBusy) => {
  const earlier = before ? countsOf(before) : null;
  const gained = countsOf(after).map((later, i) => later - (earlier ? earlier[i] : 0));
  const [requests, errors, refused, inputTokens, outputTokens, busy] = gained;
  return {
    requests: requests / elapsed,
    inputTokens: inputTokens / elapsed,
    outputTokens: outputTokens / elapsed,
    errorShare: shareOf(errors, requests),
    refusedShare: shareOf(refused, requests),
    busyShare: shareOf(busy, allBusy),
    ttft: latencyOf(before?.ttft, after.ttft),
    interToken: latencyOf(before?.inter_token, after.inter_token),
    total: latencyOf(before?.total, after.total),
    queue: latencyOf(before?.queue, after.queue),
  };
};

export const keyOf = (row) => `${row.name}@${row.version ?? ""}`;

const rowsBetween = (before, after, elapsed, allBusy) => {
  const earlier = new Map(before.map((row) => [keyOf(row), row.totals]));
  const found = new Map();
  for (const row of after) {
    const past = earlier.get(keyOf(row));
    if (mayFollow(past, row.totals)) found.set(keyOf(row), ratesOf(past, row.totals, elapsed, allBusy));
  }
  return found;
};

// What happened between the two, or null: they are not two moments of one server in this order.
export const windowOf = (before, after) => {
  const elapsed = elapsedBetween(before, after);
  if (elapsed === null || !mayFollow(before.totals, after.totals)) return null;
  const allBusy = after.totals.busy_s - before.totals.busy_s;
  return {
    elapsed,
    total: ratesOf(before.totals, after.totals, elapsed, allBusy),
    adapters: rowsBetween(before.adapters, after.adapters, elapsed, allBusy),
    tenants: rowsBetween(before.tenants, after.tenants, elapsed, allBusy),
  };
};

// The documents of the last seconds. A server that was restarted begins a new trail.
export class Trail {
  #states = [];

  add(state) {
    const states = this.#states;
    while (states.length > 1 && (elapsedBetween(states[1], state) ?? 0) >= WINDOW_S) states.shift();
    const found = states.length ? windowOf(states[0], state) : null;
    if (found === null) states.length = 0;
    states.push(state);
    if (states.length > MOST_STATES) states.shift();
    return found;
  }
}
