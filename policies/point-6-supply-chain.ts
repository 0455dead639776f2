import { control, pass, uncovered, violation } from "./control.ts";

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
      reads: ["defaultRule", "rules", "userOverrides", "files"],
      judge: ({ defaultRule, rules, userOverrides, files }) => {
        const found = [
          ...(defaultRule === "reject" ? [] : [`what is not listed: ${defaultRule}`]),
          ...Object.entries(rules).flatMap(([scope, rule]) => (closed(rule) ? [] : [`${scope}: ${rule}`])),
          ...Object.entries(userOverrides).map(([path, user]) => `${user} has ${path} in its place`),
          ...Object.entries(files).flatMap(([path, marks]) =>
            rootsAlone(marks) ? [] : [`${path} is ${marks}`],
          ),
        ];
        return found.length === 0
          ? pass(
              `rejected by default; ${Object.keys(rules).length} scope(s), each signed; no user's own policy`,
            )
          : violation(found.join("; "));
      },
    },
  }),
  uncovered({
    id: "6.supply-chain-checks",
    point: 6,
    title: "The pipeline checks what the images are made of",
  }),
] as const;

/** Whether nobody but root can change a file or folder, by its mode and owner. */
const rootsAlone = (marks: string): boolean => /^0[0-7][0145][0145] root:\S+( directory)?$/.test(marks);
