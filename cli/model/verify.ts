import { readFile } from "node:fs/promises";
import {
  parseEnvelope,
  StatementRefused,
  verifyEnvelope,
  type ModelStatement,
} from "../../provider/trust/model-statement.ts";
import { UserError } from "../errors.ts";
import { digestOfFiles } from "./file-digest.ts";

export interface VerifiedModel extends ModelStatement {
  readonly signedBy: string;
}

/**
 * Verifies a model's file by its statement, as a node does: the signature, then the bytes.
 * @param keys Public halves in PEM, by name.
 * @throws UserError with everything that is wrong
 */
export async function verifyModel(
  file: string,
  statementFile: string,
  keys: Readonly<Record<string, string>>,
  signal?: AbortSignal,
): Promise<VerifiedModel> {
  const text = await readFile(statementFile, "utf8").catch((error: unknown) => {
    throw new UserError(`${statementFile} can't be read: ${(error as Error).message}`);
  });
  let verified;
  try {
    verified = verifyEnvelope(parseEnvelope(text), keys);
  } catch (error) {
    if (!(error instanceof StatementRefused)) throw error;
    const lines = error.problems.map(({ path, message }) =>
      [statementFile, path, message].filter((part) => part !== ""),
    );
    throw new UserError(lines.map((parts) => parts.join(": ")).join("\n"), { cause: error });
  }
  const { statement, signedBy } = verified;
  const found = await digestOfFiles([file], { signal });
  const problems = [
    ...(found.sha256 === statement.sha256
      ? []
      : [
          `${file} is another file than was signed: SHA-256 ${found.sha256}, the statement is of ${statement.sha256}`,
        ]),
    ...(found.bytes === statement.bytes
      ? []
      : [`${file} has ${found.bytes} bytes, and the statement says ${statement.bytes}`]),
  ];
  if (problems.length > 0) {
    throw new UserError(problems.join("\n"), { hint: "take both again from where they were signed" });
  }
  return { ...statement, signedBy };
}
