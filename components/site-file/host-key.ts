/**
 * What is wrong with a host key that has the outer form of one; `undefined` when nothing is. A key that lost its tail when it was copied has the
 * right letters: its own length fields (RFC 4253 section 6.6) tell.
 */
export function hostKeyFault(hostKey: string): string | undefined {
  const [type, encoded] = hostKey.split(" ");
  if (encoded === undefined) return undefined; // a fingerprint, whose length the schema has checked
  if (!/^[A-Za-z0-9+/=]+$/.test(encoded)) return undefined; // the schema has told of it
  const blob = Buffer.from(encoded, "base64");
  const fields = wireFields(blob);
  const mend = "; copy the whole line of /etc/ssh/ssh_host_ed25519_key.pub again";
  if (fields === undefined) return `the key is cut short or damaged${mend}`;
  const inner = fields[0]?.toString("latin1");
  if (inner !== type) return `says ${JSON.stringify(type)}, but holds a key of another type${mend}`;
  const [, point] = fields;
  if (type === "ssh-ed25519" && point?.length !== 32) return `the key is cut short or damaged${mend}`;
  return undefined;
}

/** The length-prefixed strings of an SSH key blob; `undefined` when the lengths don't add up. */
function wireFields(blob: Buffer): Buffer[] | undefined {
  const fields: Buffer[] = [];
  let offset = 0;
  while (offset < blob.length) {
    if (offset + 4 > blob.length) return undefined;
    const length = blob.readUInt32BE(offset);
    offset += 4;
    if (offset + length > blob.length) return undefined;
    fields.push(blob.subarray(offset, offset + length));
    offset += length;
  }
  return fields.length < 2 ? undefined : fields;
}
