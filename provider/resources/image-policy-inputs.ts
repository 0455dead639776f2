import { Type, type Static } from "typebox";
import { nearest } from "../check/nearest.ts";
import type { InputProblem } from "../resource.ts";
import { PublicKeyRefused, readSigningKey } from "../trust/public-key.ts";

const keyName = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";

export const imagePolicyInputs = Type.Object({
  keys: Type.Record(Type.String({ pattern: keyName }), Type.String(), {
    default: {},
    additionalProperties: false,
    description:
      "Public halves of the keys that sign images, by name: PEM (`-----BEGIN PUBLIC KEY-----`), RSA of 2048 to 4096 bits, or ECDSA on P-256 or P-384. Default none.",
  }),
  allow: Type.Array(
    Type.Object({
      image: Type.String({
        description:
          "Where the image is: host and repository, e.g. `registry.example/edge/llama`, or a part of a registry from its host on, e.g. `registry.example/edge`, for all that is below. Without tag and digest: the signature holds those. Never a wildcard.",
      }),
      folder: Type.Optional(
        Type.String({
          description:
            "The image is not pulled from there but taken from this folder on the node, or one below it (`podman pull dir:...`), for nodes without a registry. Its real path, with no symbolic link in it. A signature has to be for the repository `image`. Default: from the registry.",
        }),
      ),
      signedBy: Type.Array(Type.String(), {
        minItems: 1,
        description:
          "Names of the keys of which one has to have signed it. Two, while one key takes the place of another.",
      }),
    }),
    {
      default: [],
      description: "Which images podman may take. Default none: everything that is not listed is rejected.",
    },
  ),
});

export type ImagePolicyInputs = Static<typeof imagePolicyInputs>;

type Allowed = ImagePolicyInputs["allow"][number];

/** Faults that the schema can't express; all of them. */
export function imagePolicyProblems({ keys, allow }: ImagePolicyInputs): InputProblem[] {
  return [
    ...Object.entries(keys).flatMap(([name, pem]) =>
      problemAt(`keys[${JSON.stringify(name)}]`, keyFault(pem)),
    ),
    ...allow.flatMap((entry, index) => entryProblems(`allow[${index}]`, entry, keys)),
    ...duplicates(allow),
  ];
}

const problemAt = (path: string, message: string | undefined): InputProblem[] =>
  message === undefined ? [] : [{ path, message }];

function entryProblems(path: string, entry: Allowed, keys: ImagePolicyInputs["keys"]): InputProblem[] {
  const names = Object.keys(keys);
  return [
    ...problemAt(`${path}.image`, imageFault(entry)),
    ...problemAt(`${path}.folder`, entry.folder === undefined ? undefined : folderFault(entry.folder)),
    ...entry.signedBy.flatMap((name, index) =>
      problemAt(
        `${path}.signedBy[${index}]`,
        names.includes(name)
          ? undefined
          : `there is no key ${JSON.stringify(name)} in \`keys\`${meant(name, names)}`,
      ),
    ),
  ];
}

function meant(name: string, names: readonly string[]): string {
  const near = nearest(name, names);
  if (near !== undefined) return `; did you mean ${JSON.stringify(near)}?`;
  return names.length === 0 ? ", which has none; add its public half there" : `; it has ${names.join(", ")}`;
}

/**
 * Why a key is not taken. podman itself takes any size and curve that Go knows, RSA-1024 among them (tried with 5.4), so that the limit has to be
 * here; what is left are the kinds that cosign and skopeo sign with.
 */
function keyFault(pem: string): string | undefined {
  try {
    readSigningKey(pem);
    return undefined;
  } catch (error) {
    if (!(error instanceof PublicKeyRefused)) throw error;
    return error.message;
  }
}

/** A host as it is told from the first part of a short name, by a dot, a port or its name `localhost` (distribution/reference, "splitDockerDomain"). */
const host = /^(localhost|[a-z0-9-]+(\.[a-z0-9-]+)+)(:\d{1,5})?$|^[a-z0-9-]+:\d{1,5}$/;
/** A part of a repository's name (OCI distribution specification, "Pulling manifests"). */
const component = /^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$/;

function imageFault({ image, folder }: Allowed): string | undefined {
  const given = JSON.stringify(image);
  if (/^[*/.]*$/.test(image))
    return `${given} would match every image of every registry; name the repository, e.g. registry.example/edge/llama`;
  if (image.includes("*"))
    return `${given} has a wildcard, and whoever gets a name under it is let in; name the hosts one by one`;
  if (image.includes("://"))
    return `${given} has a transport before it; write ${JSON.stringify(image.replace(/^.*:\/\//, ""))}`;
  const parts = image.split("/");
  const [first = "", ...rest] = parts;
  const last = rest.at(-1) ?? "";
  if (last.includes(":") || last.includes("@"))
    return `${given} names one tag or digest, which is for the signature to say; write ${JSON.stringify(image.replace(/[:@][^/]*$/, ""))}`;
  if (rest.length === 0 && /^[^.]*:/.test(first) && !first.startsWith("localhost:"))
    return `${given} names a tag or a host alone; write host and repository, e.g. registry.example/edge/llama`;
  if (!host.test(first))
    return `${given} does not begin with the host of a registry${component.test(first) ? `; did you mean ${JSON.stringify(`docker.io/${parts.length === 1 ? "library/" : ""}${image}`)}?` : ", in lower case, e.g. registry.example"}`;
  const wrong = rest.find((part) => !component.test(part));
  if (wrong !== undefined)
    return `${JSON.stringify(wrong)} in ${given} can't be a part of a repository's name: lower-case letters and digits, with single separators . _ - between them`;
  if (folder !== undefined && rest.length === 0)
    return `${given} is a registry; of what is in a folder the repository has to be said that it was signed for, e.g. ${first}/edge/llama`;
  return undefined;
}

function folderFault(folder: string): string | undefined {
  const given = JSON.stringify(folder);
  if (!folder.startsWith("/")) return `${given} is no absolute path, e.g. /srv/images`;
  if (/^\/+$/.test(folder))
    return `${given} would match every folder of the node; name the one that images are copied to, e.g. /srv/images`;
  const plain = `/${folder
    .split("/")
    .filter((part) => part !== "" && part !== ".")
    .join("/")}`;
  if (folder.split("/").includes(".."))
    return `${given} has .. in it, with which podman takes no policy at all; write the path that is meant`;
  // podman compares text: another way to write a path is another path, and a policy with such a one is not read (tried with 5.4).
  return folder === plain ? undefined : `${given} is not the plain path; write ${JSON.stringify(plain)}`;
}

function duplicates(allow: readonly Allowed[]): InputProblem[] {
  const seen = new Map<string, number>();
  return allow.flatMap(({ image, folder }, index) => {
    const key = folder ?? image;
    const first = seen.get(key);
    seen.set(key, first ?? index);
    if (first === undefined) return [];
    const path = `allow[${index}].${folder === undefined ? "image" : "folder"}`;
    const message = `${JSON.stringify(key)} is that of allow[${first}] again; keep one of them, with all keys in its \`signedBy\``;
    return [{ path, message }];
  });
}
