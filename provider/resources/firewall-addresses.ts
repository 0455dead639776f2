import ipaddr from "ipaddr.js";

export type Family = "ipv4" | "ipv6";

/** Addresses from `first` to `last`, both included, as numbers: what a CIDR, a single address and a range have in common. */
export interface AddressRange {
  readonly family: Family;
  readonly first: bigint;
  readonly last: bigint;
}

/** Whether an address may, must or must not carry a mask (`/24`). */
export type Mask = "optional" | "required" | "forbidden";

/** An address as a user wrote it: its range, or why it is not one, with the mend. */
export type ParsedAddress = { readonly range: AddressRange } | { readonly problem: string };

const bits: Readonly<Record<Family, number>> = { ipv4: 32, ipv6: 128 };

/**
 * Reads an address or CIDR and is strict about it: no host names, no octal or shortened IPv4 (`010.1`), no zone, no IPv4 in IPv6 clothes, no host
 * bits beyond the mask. What is lenient here is a hole in a firewall later.
 */
export function parseAddress(text: string, mask: Mask): ParsedAddress {
  const [host = "", length, ...rest] = text.trim().split("/");
  if (rest.length > 0 || host === "") return { problem: `'${text}' is not an address or CIDR` };
  const address = parseHost(host);
  if (typeof address === "string") return { problem: address };
  const family = address.kind();
  const all = bits[family];
  if (length === undefined) return withoutMask(text, address, mask);
  if (mask === "forbidden")
    return {
      problem: `'${text}' has a mask; one server's address is expected: did you mean "${show(address)}"?`,
    };
  const prefix = /^(0|[1-9][0-9]{0,2})$/.test(length) ? Number(length) : Number.NaN;
  if (!(prefix <= all))
    return { problem: `'${text}' has the mask /${length}; a whole number from 0 to ${all} is expected` };
  const range = networkOf(address, prefix);
  if (range.first !== toNumber(address)) {
    const network = formatAddress(family, range.first);
    return {
      problem: `'${text}' has bits set beyond its mask; did you mean "${network}/${prefix}" (the network) or "${show(address)}/${all}" (that one address)?`,
    };
  }
  return { range };
}

function withoutMask(text: string, address: IP, mask: Mask): ParsedAddress {
  const all = bits[address.kind()];
  const single = `${show(address)}/${all}`;
  if (mask === "required") return { problem: `'${text}' has no mask; did you mean "${single}"?` };
  // 10.0.0.0 is nobody's host address: the mask was forgotten, and taking it as one address would silently allow next to nothing.
  const lastPart = address.toByteArray().slice(address.kind() === "ipv4" ? 3 : 8);
  if (mask === "optional" && lastPart.every((byte) => byte === 0))
    return {
      problem: `'${text}' is a network's address without a mask; write "${show(address)}/24" or what the network's mask is, or "${single}" for that one address`,
    };
  return { range: networkOf(address, all) };
}

type IP = ipaddr.IPv4 | ipaddr.IPv6;

function parseHost(host: string): IP | string {
  if (ipaddr.IPv4.isValidFourPartDecimal(host)) return ipaddr.IPv4.parse(host);
  if (host.includes("%")) return `'${host}' has a zone; rules hold plain addresses`;
  if (ipaddr.IPv6.isValid(host)) {
    const address = ipaddr.IPv6.parse(host);
    if (!address.isIPv4MappedAddress()) return address;
    return `'${host}' is an IPv4 address in IPv6 form, which no packet carries; did you mean "${address.toIPv4Address().toString()}"?`;
  }
  if (/^[0-9.]+$/.test(host))
    return `'${host}' is not an IPv4 address of four decimal parts, each 0 to 255, without leading zeros`;
  if (/[a-z]/i.test(host) && !host.includes(":"))
    return `'${host}' is a host name, and rules hold addresses: a name would be looked up once, and whoever answers could open the firewall; write the addresses, or those of a proxy that knows names`;
  return `'${host}' is not an IPv4 or IPv6 address`;
}

function networkOf(address: IP, prefix: number): AddressRange {
  const family = address.kind();
  const hostBits = BigInt(bits[family] - prefix);
  const first = (toNumber(address) >> hostBits) << hostBits;
  return { family, first, last: first + (1n << hostBits) - 1n };
}

/** An address as sshd or the kernel reports it (`::ffff:10.0.0.1`, `fe80::1%eth0`) as the address that a packet carries; `undefined` when it is none. */
export function reportedAddress(text: string): AddressRange | undefined {
  const bare = text.replace(/%.*$/, "");
  if (!ipaddr.isValid(bare)) return undefined;
  const address = ipaddr.process(bare);
  return networkOf(address, bits[address.kind()]);
}

export const contains = (outer: AddressRange, inner: AddressRange): boolean =>
  outer.family === inner.family && outer.first <= inner.first && inner.last <= outer.last;

export const isEverything = (range: AddressRange): boolean =>
  range.first === 0n && range.last === (1n << BigInt(bits[range.family])) - 1n;

/** Sorted, with overlapping and adjacent ranges made one: the form nft itself gives to a set. */
export function mergeRanges<R extends { readonly first: bigint; readonly last: bigint }>(
  ranges: readonly R[],
): R[] {
  const sorted = [...ranges].sort((a, b) => (a.first < b.first ? -1 : a.first > b.first ? 1 : 0));
  const merged: R[] = [];
  for (const range of sorted) {
    const previous = merged.at(-1);
    if (previous === undefined || range.first > previous.last + 1n) merged.push(range);
    else if (range.last > previous.last) merged[merged.length - 1] = { ...previous, last: range.last };
  }
  return merged;
}

/** In nft's words: an address, a CIDR where the range is one, else `first-last`. */
export function formatRange(range: AddressRange): string {
  const size = range.last - range.first + 1n;
  const hostBits = size.toString(2).length - 1;
  const first = formatAddress(range.family, range.first);
  if (size === 1n) return first;
  const isPrefix = size === 1n << BigInt(hostBits) && range.first % size === 0n;
  return isPrefix
    ? `${first}/${bits[range.family] - hostBits}`
    : `${first}-${formatAddress(range.family, range.last)}`;
}

/**
 * Reads what nft lists: an address, `address/length` or `first-last`.
 * @throws RangeError when it is none of these.
 */
export function readRange(text: string): AddressRange {
  const [from = "", to] = text.split("-");
  const [host = "", length] = from.split("/");
  if (!ipaddr.isValid(host) || (to !== undefined && !ipaddr.isValid(to)))
    throw new RangeError(`'${text}' is not an address`);
  const first = ipaddr.parse(host);
  const family = first.kind();
  if (to === undefined) return networkOf(first, length === undefined ? bits[family] : Number(length));
  return { family, first: toNumber(first), last: toNumber(ipaddr.parse(to)) };
}

const toNumber = (address: IP): bigint =>
  address.toByteArray().reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);

function formatAddress(family: Family, value: bigint): string {
  const bytes = Array.from({ length: bits[family] / 8 }, (_, i) =>
    Number((value >> BigInt(8 * i)) & 255n),
  ).reverse();
  return show(ipaddr.fromByteArray(bytes));
}

const show = (address: IP): string =>
  address instanceof ipaddr.IPv6 ? address.toRFC5952String() : address.toString();
