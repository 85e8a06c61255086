/** Numbers, times and messages as text. */

/** The text with a capital first letter and a full stop. */
export function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");
}

export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 1) return "under a second";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = seconds / 60;
  if (minutes < 90) return `${Math.round(minutes)} min`;
  return `${(minutes / 60).toFixed(1)} h`;
}

export function bytes(count: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) (count /= 1000), unit++;
  return `${count < 10 && unit ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

export function clock(seconds: number): string {
  const whole = Math.floor(seconds);
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  const rest = (seconds - whole + (whole % 60)).toFixed(2).padStart(5, "0");
  return (hours ? `${hours}:${String(minutes).padStart(2, "0")}` : String(minutes)) + `:${rest}`;
}

export function percent(share: number): string {
  const value = share * 100;
  return `${value >= 99.95 || value === 0 ? Math.round(value) : value < 10 ? value.toFixed(1) : Math.round(value)} %`;
}

export function count(number: number, one: string, many = `${one}s`): string {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

export function when(time: string | undefined): string {
  if (!time) return "";
  const date = new Date(time);
  const seconds = (Date.now() - date.getTime()) / 1000;
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return date.toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
}

/** A micro-model version, short; the start of the micro-model's id is part of it, because every micro-model has a version 1. */
export function versionName(version: string | undefined): string {
  const match = /microModels\/([^/]+)\/versions\/(\d+)/.exec(version ?? "");
  return match ? `${match[1].slice(0, 4)}, version ${match[2]}` : version || "another tool";
}
