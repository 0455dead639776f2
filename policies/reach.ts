import ipaddr from "ipaddr.js";

/**
 * The widest networks that an entry of an allowlist may name: the largest private networks there are (10.0.0.0/8, RFC 1918; fc00::/7, RFC 4193).
 * What is wider names no known endpoint; it is open access under another name.
 */
const shortestMask = { ipv4: 8, ipv6: 7 } as const;

/** Whether an address, CIDR or `first-last` range is wider than any private network. What can't be read counts as too wide. */
export function isTooWide(text: string): boolean {
  const [first = "", last] = text.split("-");
  if (last !== undefined) return rangeIsTooWide(first, last);
  const [host = "", mask] = text.split("/");
  if (!ipaddr.isValid(host)) return true;
  const kind = ipaddr.parse(host).kind();
  if (mask === undefined) return false;
  return !/^\d+$/.test(mask) || Number(mask) < shortestMask[kind];
}

function rangeIsTooWide(first: string, last: string): boolean {
  if (!ipaddr.isValid(first) || !ipaddr.isValid(last)) return true;
  const a = ipaddr.parse(first);
  const b = ipaddr.parse(last);
  if (a.kind() !== b.kind()) return true;
  const bits = a.kind() === "ipv4" ? 32 : 128;
  return toNumber(b) - toNumber(a) + 1n > 1n << BigInt(bits - shortestMask[a.kind()]);
}

const toNumber = (address: ipaddr.IPv4 | ipaddr.IPv6): bigint =>
  address.toByteArray().reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
