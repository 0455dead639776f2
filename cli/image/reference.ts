import { UserError } from "../errors.ts";

/** What an image is called: where it is pulled from, and under which tag. */
export interface ImageReference {
  /** `registry.example` or `127.0.0.1:5000`. */
  readonly host: string;
  /** `edge/llama`. */
  readonly repository: string;
  readonly tag: string;
}

/** A host is told from the first part of a short name by a dot, a port or its name `localhost` (distribution/reference, "splitDockerDomain"). */
const form =
  /^(?<host>localhost(?::\d{1,5})?|[a-z0-9-]+(?:\.[a-z0-9-]+)+(?::\d{1,5})?|[a-z0-9-]+:\d{1,5})\/(?<repository>[a-z0-9]+(?:(?:\.|_|__|-+|\/)[a-z0-9]+)*):(?<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127})$/;

/** @throws UserError */
export function parseReference(text: string): ImageReference {
  const { host, repository, tag } = form.exec(text)?.groups ?? {};
  if (host === undefined || repository === undefined || tag === undefined) {
    throw new UserError(`'${text}' does not say where an image is: expected HOST/REPOSITORY:TAG`, {
      hint: "with the registry's host and a tag, without a digest, such as registry.example/edge/llama:2027-01",
    });
  }
  return { host, repository, tag };
}

export const formatReference = ({ host, repository, tag }: ImageReference): string =>
  `${host}/${repository}:${tag}`;
