import type { Connection } from "./connection.ts";
import { InvalidRequest } from "./host/errors.ts";

const form = "ssh://USER@HOST:PORT/NODE?hostKey=KEY[&identityFile=PATH][&agent=SOCKET]";

/**
 * Which of several resources of a kind on the node an import id means: its fragment, e.g. `models` of `ssh://...#models`.
 * @throws InvalidRequest when it has none
 */
export function instanceFromUrl(id: string): string {
  const { hash } = new URL(id);
  if (hash.length > 1 && !/%(?![0-9a-f]{2})/i.test(hash)) return decodeURIComponent(hash.slice(1));
  throw new InvalidRequest(`the import id does not say which one of the node's; expected ${form}#NAME`);
}

/**
 * The connection that an import id stands for. An import knows nothing but an id, so it says how the node is reached:
 * `ssh://edgeseal@192.0.2.10:22/pi-1?hostKey=SHA256%3A...&identityFile=~/.ssh/id_ed25519`. User and port may be left out; the host key may not. The
 * values are percent-encoded (`:` is `%3A`, `+` is `%2B`, a space `%20`). A private key or password does not belong into an id, which is
 * shown and recorded in the clear.
 * @throws InvalidRequest saying what is wrong with the id; never quotes a part that may be a password.
 */
export function connectionFromUrl(id: string): Record<string, string | number> {
  const refuse = (what: string): InvalidRequest =>
    new InvalidRequest(`the import id ${what}; expected ${form}`);
  if (!URL.canParse(id) || !id.startsWith("ssh://")) throw refuse("is not an ssh:// URL");
  const url = new URL(id);
  if (url.password !== "") throw refuse("has a password in it");
  const decoded = (part: string): string => {
    try {
      return decodeURIComponent(part);
    } catch {
      throw refuse("is not percent-encoded as it should be");
    }
  };
  const node = decoded(url.pathname.slice(1));
  if (node === "" || node.includes("/")) throw refuse("does not name the node");
  const connection: Record<string, string | number> = {
    node,
    address: url.hostname.replace(/^\[(.*)\]$/, "$1"),
  };
  if (url.port !== "") connection["port"] = Number(url.port);
  if (url.username !== "") connection["user"] = decoded(url.username);
  const allowed: readonly (keyof Connection)[] = ["hostKey", "identityFile", "agent"];
  // Not URLSearchParams: it would read the `+` of base64 as a space.
  for (const pair of url.search
    .slice(1)
    .split("&")
    .filter((text) => text !== "")) {
    const [key = "", ...rest] = pair.split("=");
    if (!(allowed as readonly string[]).includes(key)) throw refuse(`has an unknown part '${key}'`);
    connection[key] = decoded(rest.join("="));
  }
  if (connection["hostKey"] === undefined) throw refuse("has no hostKey: there is no trust on first use");
  return connection;
}
