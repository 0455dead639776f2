import type { ImagePolicyInputs } from "./image-policy-inputs.ts";

/** What containers-policy.json(5) and containers-registries.d(5) are read from, and what edgeseal keeps there. */
export const policyFiles = {
  directory: "/etc/containers",
  policy: "/etc/containers/policy.json",
  lookupDirectory: "/etc/containers/registries.d",
  lookup: "/etc/containers/registries.d/edgeseal.yaml",
  edgeseal: "/etc/edgeseal",
  keyDirectory: "/etc/edgeseal/image-keys",
} as const;

/** The policy that was there before edgeseal's, for the way back; the folder is there once it was looked for. */
export const formerDirectory = "/var/lib/edgeseal/image-policy";
export const formerPolicy = `${formerDirectory}/policy.json`;

/** What of `~/.config/containers` stands in the place of the system's (containers/image, `signature/policy_config.go` and `docker/registries_d.go`): the file, and the folder. */
export const perUser = ["policy.json", "registries.d"] as const;

/** Below `/etc/edgeseal/image-keys`. */
export const keyPath = (name: string): string => `${policyFiles.keyDirectory}/${name}.pem`;

/** The key files by path; each with one line end at its end, as it is read back. */
export const keyFiles = ({ keys }: ImagePolicyInputs): Readonly<Record<string, string>> =>
  Object.fromEntries(Object.entries(keys).map(([name, pem]) => [keyPath(name), `${pem.trim()}\n`]));

/** containers-policy.json(5): everything is rejected but what is listed, and that has to be signed. */
export function policyDocument({ allow }: ImagePolicyInputs): object {
  const scopes = (inFolder: boolean): Record<string, object> => {
    const entries = allow.filter(({ folder }) => (folder !== undefined) === inFolder);
    return Object.fromEntries(entries.map((entry) => [entry.folder ?? entry.image, [requirement(entry)]]));
  };
  const transports = { docker: scopes(false), dir: scopes(true) };
  return { default: [{ type: "reject" }], transports };
}

function requirement({ image, folder, signedBy }: ImagePolicyInputs["allow"][number]): object {
  const [first = "", ...more] = signedBy.map(keyPath);
  return {
    type: "sigstoreSigned",
    // Several at once are known from podman 5 on; one in the form that Debian 12's podman 4.3 reads, too.
    ...(more.length === 0 ? { keyPath: first } : { keyPaths: [first, ...more] }),
    // A folder says nothing of names, so the signature has to be for this repository. In a registry the default holds: for the repository and tag
    // that was asked for, so that a tag which was moved to another signed image is refused.
    ...(folder === undefined ? {} : { signedIdentity: { type: "exactRepository", dockerRepository: image } }),
  };
}

/** Which parts of registries are asked for signatures: those that are allowed. */
export const registriesOf = ({ allow }: ImagePolicyInputs): readonly string[] =>
  allow.filter(({ folder }) => folder === undefined).map(({ image }) => image);

/** containers-registries.d(5), in JSON, which is YAML: without it podman finds no sigstore signature in any registry. */
export const lookupDocument = (inputs: ImagePolicyInputs): object => ({
  docker: Object.fromEntries(
    registriesOf(inputs).map((image) => [image, { "use-sigstore-attachments": true }]),
  ),
});
