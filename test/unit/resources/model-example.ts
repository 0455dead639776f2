import { chmodSync } from "node:fs";
import { join } from "node:path";
import { generateKeyPairSync, randomBytes, sign, type KeyObject } from "node:crypto";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import { modelStatement, signStatement } from "../../../provider/trust/model-statement.ts";
import type { ModelInputs } from "../../../provider/resources/model-inputs.ts";
import type { FakeRoot } from "./fake-root.ts";

/* Models, and statements on them, for tests: some hundred KiB that nothing could compute with. */

export interface KeyPair {
  readonly pem: string;
  readonly publicKey: KeyObject;
  readonly privateKey: KeyObject;
}

export function keyPair(): KeyPair {
  const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return { pem: publicKey.export({ type: "spki", format: "pem" }).toString(), publicKey, privateKey };
}

export const siteKey = keyPair();
export const otherKey = keyPair();

/** The text of a `*.dsse.json` file. */
export function statementOn(content: Buffer, { publicKey, privateKey } = siteKey): Promise<string> {
  const payload = modelStatement({
    name: "babble-1m",
    sha256: sha256Hex(content),
    bytes: content.length,
    origin: `random bytes, "predicateType":"urn:edgeseal:model:v1","subject":[{"digest":{"sha256":"`,
    licence: "CC0-1.0",
  });
  const signer = {
    name: "test",
    sign: (message: Uint8Array) => Promise.resolve(sign("sha256", message, privateKey)),
  };
  return signStatement({ publicKey, privateKey: signer }, payload);
}

export const modelContent = (): Buffer => randomBytes(300_000);

/** Inputs for a model of this content, signed by the site. */
export async function inputsFor(
  content: Buffer,
  place: Pick<ModelInputs, "mountPoint" | "directory">,
  changes: Partial<ModelInputs> = {},
): Promise<ModelInputs> {
  return {
    name: "llama",
    digest: `sha256:${sha256Hex(content)}`,
    statement: await statementOn(content),
    keys: { site: siteKey.pem },
    keep: 1,
    ...place,
    ...changes,
  };
}

/** `stat` as root sees it, whoever runs the tests. */
const stat = `#!/bin/sh
format=$2
shift 2
[ "$1" != -- ] || shift
for f; do /usr/bin/stat -c "$(printf %s "$format" | sed s/%U:%G/root:root/)" -- "$f"; done
`;

/** Mounts a volume at /var/models, for as long as /mounted is there. */
export function mountVolume(root: FakeRoot): void {
  const programs = { stat, mountpoint: '#!/bin/sh\n[ -e "$ROOT/mounted" ]\n', chown: "#!/bin/sh\nexit 0\n" };
  for (const [name, script] of Object.entries(programs)) {
    root.write(`/bin/${name}`, script);
    chmodSync(join(root.root, "bin", name), 0o755);
  }
  root.write("/mounted", "");
  root.write("/var/models/lost+found", "");
}
