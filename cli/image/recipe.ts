import { UserError } from "../errors.ts";

/** What an image is made of. */
export interface ImageRecipe {
  /** Its name, that of its folder under images/. */
  readonly name: string;
  /** For people, in one line. */
  readonly title: string;
  /** Debian's suite that the packages are from. */
  readonly suite: string;
  /** Packages that apt is asked for; what they depend on comes with them, what they recommend does not. */
  readonly packages: readonly string[];
  /** The package whose version is the image's. */
  readonly versionOf: string;
  /** The one program, and the image's entry point. */
  readonly program: string;
  /** Libraries that the program opens at run time. */
  readonly plugins: RegExp;
  /** Other files to take along. */
  readonly files: readonly string[];
  /** Empty folders: what the container runtime mounts over. `/tmp` is everybody's. */
  readonly folders: readonly string[];
}

/** Architectures by Debian's names, which are OCI's as well. */
export const architectures = ["amd64", "arm64"] as const;
export type Architecture = (typeof architectures)[number];

/** The architecture that a text names, this machine's when there is none. @throws UserError */
export function architectureOf(given: string | undefined): Architecture {
  const name = given ?? (process.arch === "x64" ? "amd64" : process.arch);
  const known = architectures.find((each) => each === name);
  if (known !== undefined) return known;
  throw new UserError(`there is no image for the architecture '${name}'`, {
    hint: `give --arch ${architectures.join(" or --arch ")}`,
  });
}
