import { changeableByOthers } from "./changeable-files.ts";
import { control, notRead, pass, uncovered, unknown, verdict, violation } from "./control.ts";
import { blockTypes, type JudgedNode, type StateOf } from "./node.ts";
import { askedContainer, whereServing } from "./serving.ts";

/** What the resource says of a scope whose images have to be signed by keys that it knows, and of one that is closed. */
const closed = (rule: string): boolean =>
  rule === "reject" || /^signed by sha256:[0-9a-f]{64}( or sha256:[0-9a-f]{64})* for /.test(rule);

/** Point 6: all images signed and verified; supply-chain checks in CI/CD. */
export const supplyChainControls = [
  control({
    id: "6.signed-images",
    point: 6,
    title: "No image is taken without a signature by a key of the site",
    mend: "give the node an `imagePolicy` block: the public `keys`, and in `allow` each image with `signedBy` (docs/resources/image-policy.md)",
    block: "imagePolicy",
    declared: {
      reads: ["allow"],
      judge: ({ allow }) => {
        const unsigned = allow.filter(({ signedBy }) => signedBy.length === 0);
        if (unsigned.length > 0)
          return violation(
            `imagePolicy.allow: ${unsigned.map(({ image }) => image).join(", ")} without a key that signs`,
          );
        return pass(
          allow.length === 0
            ? "every image is rejected"
            : `only ${allow.map(({ image, folder, signedBy }) => `${folder ?? image} signed by ${signedBy.join(" or ")}`).join(", ")}`,
        );
      },
    },
    observed: {
      reads: ["defaultRule", "rules", "userOverrides", "foreignKeys", "files"],
      judge: ({ defaultRule, rules, userOverrides, foreignKeys, files }) => {
        const found = [
          ...(defaultRule === "reject" ? [] : [`what is not listed: ${defaultRule}`]),
          ...Object.entries(rules).flatMap(([scope, rule]) => (closed(rule) ? [] : [`${scope}: ${rule}`])),
          ...Object.entries(userOverrides).map(([path, user]) => `${user} has ${path} in its place`),
          ...foreignKeys.map((path) => `${path} is a key that was not declared`),
          ...changeableByOthers(files),
        ];
        return verdict(
          found,
          `rejected by default; ${Object.keys(rules).length} scope(s), each signed; no user's own policy`,
        );
      },
    },
  }),
  control({
    id: "6.pinned-image",
    point: 6,
    title: "What serves runs from the image that is named by its digest, and which the image policy takes",
    mend: "name `inference.image` by its digest, and list its repository under `imagePolicy.allow` with who signs it",
    block: "inference",
    alsoReads: ["imagePolicy"],
    declared: {
      reads: ["image"],
      judge: ({ image }, { blocks, partial }) => {
        const { repository, digest } = pinned(image) ?? {};
        if (repository === undefined || digest === undefined)
          return violation(`inference.image is ${JSON.stringify(image)}, without a digest`);
        const allowed = allowedImages(blocks.imagePolicy);
        // Where a container is looked at alone, nothing is known of the policy beside it.
        return partial === true || allowed.some((each) => isIn(repository, each))
          ? pass(`${repository} by ${digest.slice(0, 23)}..., which the image policy takes when it is signed`)
          : violation(`the image policy takes nothing from ${repository}`);
      },
    },
    observed: {
      reads: ["health", "image"],
      judge: (state, node) =>
        whereServing(state, ({ image }) => {
          const { image: wanted } = askedContainer(node);
          if (image === "") return violation("runs from no image that is known");
          if (wanted === undefined) return unknown("which image is declared is not known");
          const { repository, digest } = pinned(wanted) ?? {};
          if (repository === undefined || digest !== image)
            return violation(`runs from ${image}, declared is ${wanted}`);
          const policy = node.blocks.imagePolicy;
          if (node.partial !== true) {
            if (policy === undefined)
              return violation(`the state has no ${blockTypes.imagePolicy} beside the container`);
            const lacking = notRead(node, "imagePolicy", policy, ["rules"]);
            if (lacking !== undefined) return lacking;
            if (!isTaken(repository, (policy as StateOf<"imagePolicy">).rules))
              return violation(`the image policy takes nothing from ${repository}`);
          }
          return pass(`runs from ${image}, as declared`);
        }),
    },
  }),
  control({
    id: "6.signed-model",
    point: 6,
    title: "What is served is a model that a key of the site has signed, verified on the node",
    mend: "sign the model (`edgeseal model sign`), and give `inference.model` its digest, statement and the `keys` that may sign (docs/resources/model.md)",
    block: "model",
    alsoReads: ["inference"],
    declared: {
      reads: ["digest", "keys"],
      judge: ({ digest, keys }, { blocks }) => {
        const { model: served = digest } = recordOf(blocks.inference);
        if (served !== digest) return violation(`served is ${String(served)}, and the model is ${digest}`);
        return Object.keys(keys).length === 0
          ? violation("model.keys has no key that may sign")
          : pass(`${digest.slice(0, 23)}..., signed by ${Object.keys(keys).join(" or ")}`);
      },
    },
    observed: {
      reads: ["volume", "digest", "model", "foreignKeys", "files"],
      judge: ({ volume, digest, model, foreignKeys, files }, { blocks }) => {
        const { model: served = "" } = recordOf(blocks.inference);
        const found = [
          ...(served === "" || served === digest
            ? []
            : [`served is ${String(served)}, and in place ${digest}`]),
          ...(volume === "mounted" ? [] : ["the volume is not mounted"]),
          ...(model === "verified" ? [] : [`the model is ${model}`]),
          ...foreignKeys.map((key) => `${key} may sign models, and was not declared`),
          ...changeableByOthers(files),
        ];
        return verdict(found, `${digest}: content and signature verified on the node`);
      },
    },
  }),
  uncovered({
    id: "6.supply-chain-checks",
    point: 6,
    title: "The pipeline checks what the images are made of",
  }),
] as const;

/** What an image with a digest is called. */
function pinned(image: string): { readonly repository: string; readonly digest: string } | undefined {
  const [, repository, digest] = /^([^@]+?)(?::[^/@]*)?@(sha256:[0-9a-f]{64})$/.exec(image) ?? [];
  return repository === undefined || digest === undefined ? undefined : { repository, digest };
}

/** Whether a repository is the one of that name, or in that part of a registry. */
const isIn = (repository: string, scope: string): boolean =>
  repository === scope || repository.startsWith(`${scope}/`);

/** Whether a policy lets images of a repository in: from the registry, where the narrowest scope decides, or from a folder, where a signature says whose image it is. */
function isTaken(repository: string, rules: StateOf<"imagePolicy">["rules"]): boolean {
  const scopes = Object.keys(rules)
    .flatMap((each) => /^docker:(.+)$/.exec(each)?.[1] ?? [])
    .filter((scope) => isIn(repository, scope));
  const narrowest = scopes.sort((a, b) => b.length - a.length)[0];
  const fromRegistry = narrowest !== undefined && rules[`docker:${narrowest}`] !== "reject";
  const fromFolder = Object.entries(rules).some(
    ([scope, rule]) => scope.startsWith("dir:") && isIn(repository, / for (\S+)$/.exec(rule)?.[1] ?? ""),
  );
  return fromRegistry || fromFolder;
}

/** What the image policy beside it allows, as far as that is known: host and repository, or a part of a registry. */
function allowedImages(policy: JudgedNode["blocks"]["imagePolicy"]): readonly string[] {
  const { allow } = recordOf(policy);
  return Array.isArray(allow)
    ? allow.flatMap((entry) => {
        const { image } = recordOf(entry);
        return typeof image === "string" ? [image] : [];
      })
    : [];
}

const recordOf = (value: unknown): Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null ? (value as Readonly<Record<string, unknown>>) : {};
