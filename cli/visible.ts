/**
 * What could move the cursor, hide text, or turn the direction of what follows: control characters, format characters (bidi marks, zero-width ones), line and
 * paragraph separators, private use, and halves of surrogate pairs.
 */
const invisible = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** Text from a device as a person can be shown it in a terminal: nothing in it can make the terminal show something else. */
export const visible = (text: string): string =>
  text.replaceAll(invisible, (character) => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`);
