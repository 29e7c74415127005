# Walk the vocabulary.
use strict;
use warnings;

open(my $in, '<:raw', $ARGV[0]) or die "$ARGV[0]: $!";
my $data = do { local $/; <$in> };
my $scored = substr($data, 0, 4) ne 'lmgg';
my $at = $scored ? 36 : 32;
my $n_vocab = unpack('l<', substr($data, $scored ? 8 : 4, 4));
open(my $out, '>', $ARGV[1]) or die "$ARGV[1]: $!";
for my $index (0 .. $n_vocab - 1) {
    my $length = unpack('L<', substr($data, $at, 4));
    my $text = substr($data, $at + 4, $length);
    $at += 4 + $length;
    my $line = "$index " . ($length ? unpack('H*', $text) : '-');
    if ($scored) {
        $line .= sprintf(' %.9g', unpack('f<', substr($data, $at, 4)));
        $at += 4;
    }
    print $out "$line\n";
}
close($out) or die;
