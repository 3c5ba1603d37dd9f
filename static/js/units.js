/* Numbers as people read them; the same rules as apps/dashboard/units.py. */

export const NONE = "–";

const grouped = (value, digits = 0) =>
  value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });

export function count(value) {
  if (value == null) return NONE;
  if (Math.abs(value) >= 1e9) return `${(value / 1e9).toFixed(2)}B`;
  if (Math.abs(value) >= 1e6) return `${(value / 1e6).toFixed(2)}M`;
  if (Math.abs(value) >= 1e4) return `${(value / 1e3).toFixed(1)}k`;
  return grouped(value);
}

export const rate = (value) => (value > 0 && value < 9.95 ? value.toFixed(1) : count(value));

export function seconds(value) {
  if (value == null) return NONE;
  if (value < 0.01) return `${(value * 1000).toFixed(1)} ms`;
  if (value < 0.9995) return `${(value * 1000).toFixed(0)} ms`;
  if (value < 60) return value < 9.995 ? `${value.toFixed(2)} s` : `${value.toFixed(1)} s`;
  return duration(value);
}

export function duration(value) {
  if (value == null) return NONE;
  let whole = Math.max(0, Math.round(value));
  const parts = [];
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]) {
    const amount = Math.floor(whole / size);
    whole -= amount * size;
    if (amount || parts.length) parts.push([amount, unit]);
    if (parts.length === 2) break;
  }
  return parts.filter(([amount]) => amount).map(([amount, unit]) => `${amount} ${unit}`).join(" ") || "0 s";
}

export function bytes(value) {
  if (value == null) return NONE;
  for (const [size, unit, digits] of [[1e12, "TB", 2], [1e9, "GB", 1], [1e6, "MB", 0], [1e3, "kB", 0]])
    if (value >= size * 0.9995) return `${grouped(value / size, digits).replace(/\.0$/, "")} ${unit}`;
  return `${value.toFixed(0)} B`;
}

export const percent = (ratio) => (ratio == null ? NONE : `${(ratio * 100).toFixed(0)}%`);

export function usd(value) {
  if (value == null) return NONE;
  if (value === 0) return "$0.00";
  if (Math.abs(value) < 0.01) return `$${Math.max(value, 0.0001).toFixed(4).replace(/0+$/, "")}`;
  if (Math.abs(value) >= 1e4) return `$${count(value)}`;
  return `$${grouped(value, 2)}`;
}

/* Price of 1M output tokens from the price of an hour and the rate now. */
export const perMillion = (usdPerHour, tokensPerSecond) =>
  tokensPerSecond * 3600 >= 1 ? (usdPerHour / (tokensPerSecond * 3600)) * 1e6 : null;
