/** Shorter pieces of a secret than this are left alone: taking them out would make every message unreadable, and give the piece away. */
const shortestPiece = 6;

/**
 * The text with every trace of the secrets replaced: whole, line by line, and in base64 and hex. A program that fails likes to quote its input.
 */
export function redact(text: string, secrets: readonly string[]): string {
  const pieces = new Set<string>();
  for (const secret of secrets) {
    for (const piece of [secret, ...secret.split(/\r?\n/)]) {
      const trimmed = piece.trim();
      if (trimmed.length < shortestPiece) continue;
      const bytes = Buffer.from(trimmed, "utf8");
      for (const form of [
        piece,
        trimmed,
        bytes.toString("base64"),
        bytes.toString("hex"),
        JSON.stringify(trimmed).slice(1, -1),
      ]) {
        if (form !== "") pieces.add(form);
      }
    }
  }
  // The longest first, so that no piece is cut out of the middle of a longer one.
  return [...pieces]
    .sort((a, b) => b.length - a.length)
    .reduce((left, piece) => left.replaceAll(piece, "[secret]"), text);
}
