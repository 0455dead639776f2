import ipaddr from "ipaddr.js";

/** What is wrong with the address of a node, with the mend; `undefined` when it can be an IP address or a host name (RFC 1123). */
export function addressFault(address: string): string | undefined {
  if (address === "" || isAddress(address)) return undefined; // the schema tells of an empty one
  const expected = `expected an IP address or a host name, got ${JSON.stringify(address)}`;
  const {
    user,
    host = "",
    port,
  } = /^(?:ssh:\/\/)?(?:(?<user>[^@/]+)@)?(?<host>\[[^\]/]*\]|[^:/[\]]*)(?::(?<port>\d+))?\/?$/.exec(address)
    ?.groups ?? {};
  const bare = host.replace(/^\[(.*)\]$/, "$1");
  if (!isHost(bare)) return expected;
  if (bare === address) return undefined;
  const fields = [`address: ${JSON.stringify(bare)}`];
  if (port !== undefined) fields.push(`port: ${port}`);
  if (user !== undefined) fields.push(`user: ${user}`);
  return `${expected}; write ${fields.map((field) => `\`${field}\``).join(", ")}`;
}

/** Not the shortened and octal forms of inet_aton(3): `192.0.2` would be 192.0.0.2. */
const isAddress = (text: string): boolean =>
  ipaddr.IPv4.isValidFourPartDecimal(text) || ipaddr.IPv6.isValid(text);

const label = /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/i;

/** Digits and dots alone are a mistyped IPv4 address: no top-level domain is a number (RFC 3696, section 2). */
const isHost = (text: string): boolean =>
  isAddress(text) ||
  (!/^[\d.]+$/.test(text) &&
    text
      .replace(/\.$/, "")
      .split(".")
      .every((each) => label.test(each)));
