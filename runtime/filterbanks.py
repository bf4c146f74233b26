"""Filterbanks as matrices: numbers -> matrix. No other file of the project knows one of these formulas."""

import numpy as np

EAR_Q, MIN_BANDWIDTH_HZ = 9.26449, 24.7  # Glasberg and Moore's ERB, as Slaney and Ellis use it


def hann(win_length):
    """-> (win_length,) float64 periodic Hann window."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win_length) / win_length)


def hz_to_mel(hz, scale="slaney"):
    """Slaney's scale: linear below 1 kHz (15 mel), logarithmic above (27 steps per factor 6.4). Or HTK's, P1's eq."""
    hz = np.asarray(hz, float)
    if scale == "htk":
        return 2595 * np.log10(1 + hz / 700)
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def mel_to_hz(mel, scale="slaney"):
    """Inverse of `hz_to_mel`."""
    mel = np.asarray(mel, float)
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((np.maximum(mel, 15) - 15) / 27))


def mel_edges(n_bands, fmin, fmax, scale="slaney"):
    """-> (n_bands + 2,) frequencies in Hz, evenly spaced in mel: band k rises from edge k to k + 1 and falls to k + 2."""
    return mel_to_hz(np.linspace(hz_to_mel(fmin, scale), hz_to_mel(fmax, scale), n_bands + 2), scale)


def mel_centers(n_bands, fmin, fmax, scale="slaney"):
    """-> (n_bands,) centre frequencies in Hz, ascending."""
    return mel_edges(n_bands, fmin, fmax, scale)[1:-1]


def mel_weights(sr, n_fft, n_bands, fmin, fmax, scale="slaney"):
    """-> (n_bands, 1 + n_fft // 2) triangles of equal area for a power spectrum; equals librosa's Slaney-normed bank."""
    edges_hz = mel_edges(n_bands, fmin, fmax, scale)
    bins_hz = np.arange(1 + n_fft // 2) * sr / n_fft
    weights = np.empty((n_bands, len(bins_hz)))  # band by band: all at once would take five times the memory
    for band, left, center, right in zip(weights, edges_hz, edges_hz[1:], edges_hz[2:]):
        rising, falling = (bins_hz - left) / (center - left), (right - bins_hz) / (right - center)
        band[:] = np.maximum(0, np.minimum(rising, falling)) * 2 / (right - left)
    return weights


def gammatone_centers(n_bands, fmin, fmax):
    """-> (n_bands,) centre frequencies in Hz, ascending, evenly spaced on the ERB scale; the first is fmin."""
    c = EAR_Q * MIN_BANDWIDTH_HZ
    k = np.arange(n_bands, 0, -1) / n_bands
    return -c + np.exp(k * (np.log(fmin + c) - np.log(fmax + c))) * (fmax + c)


def gammatone_weights(sr, n_fft, n_bands, fmin, fmax):
    """-> (n_bands, 1 + n_fft // 2) magnitudes of fourth-order gammatone filters at the FFT's bins, for a MAGNITUDE spectrum.

    Ellis, "Gammatone-like spectrograms" (2009), after Slaney (1993): poles at r exp(+-j theta), four real zeros.
    """
    circle = np.exp(2j * np.pi * np.arange(1 + n_fft // 2) / n_fft)
    weights = np.empty((n_bands, len(circle)))  # band by band: all at once would take 70 MB
    for band, center in zip(weights, gammatone_centers(n_bands, fmin, fmax)):
        bandwidth = 1.019 * 2 * np.pi * (center / EAR_Q + MIN_BANDWIDTH_HZ)
        theta, r = 2 * np.pi * center / sr, np.exp(-bandwidth / sr)
        spread = np.sqrt(3 + np.array([1, 1, -1, -1]) * 2**1.5) * np.array([1, -1, 1, -1])
        zeros, pole = r * (np.cos(theta) + spread * np.sin(theta)), r * np.exp(1j * theta)
        u = np.append(circle, np.exp(1j * theta))  # the FFT's bins, and the centre, where the gain is 1
        over = np.prod(np.abs(u - zeros[:, None]), axis=0)
        magnitude = over * np.abs((pole - u) * (pole.conj() - u)) ** -4.0
        band[:] = magnitude[:-1] / magnitude[-1]
    return weights


def dct_matrix(n_coefs, n_mels):
    """-> (n_coefs, n_mels) orthonormal DCT-II: log-mel bands -> MFCC, as librosa.feature.mfcc."""
    k, n = np.arange(n_coefs)[:, None], np.arange(n_mels)
    basis = np.sqrt(2 / n_mels) * np.cos(np.pi * k * (2 * n + 1) / (2 * n_mels))
    basis[0] /= np.sqrt(2)
    return basis


def smooth_split(weights, span, order, tolerance):
    """(n_bands, n_bins) positive weights -> near, far, basis: the same product from fewer numbers, for smooth weights.

    Bins are cut into runs of `span`. Where a polynomial of `order` coefficients meets a band's weights in a run, each
    within `tolerance` of itself, its coefficients stand in `far`; elsewhere the weights themselves stand in `near`: the
    whole first and last run, too (weights have a kink at 0 Hz and at Nyquist), and what is behind it.
    basis (span, order) gives a run's moments; near (n_bands, n_bins) and far (n_bands, runs * order) are float32.

        x @ weights.T  =  x @ near.T + moments of x @ far.T
    """
    n_bands, n_bins = weights.shape
    n_runs = n_bins // span
    at = (np.arange(span) + 0.5) / span * 2 - 1
    basis, _ = np.linalg.qr(np.polynomial.legendre.legvander(at, order - 1))
    near, far = weights.astype(np.float32), np.zeros((n_bands, n_runs, order), np.float32)
    for band in range(n_bands):  # all at once would take 20 MB
        runs = weights[band, : n_runs * span].reshape(n_runs, span)
        coefficients = runs @ basis
        is_met = np.all(np.abs(coefficients @ basis.T - runs) <= tolerance * runs, axis=1)
        is_met[[0, -1]] = False
        far[band, is_met] = coefficients[is_met]
        near[band, : n_runs * span].reshape(n_runs, span)[is_met] = 0
    return near, far.reshape(n_bands, -1), basis


def cqt_centers(n_bands, fmin, bins_per_octave):
    """-> (n_bands,) centre frequencies in Hz, ascending."""
    return fmin * 2.0 ** (np.arange(n_bands) / bins_per_octave)


def cqt_quality(bins_per_octave):
    """Periods of the centre frequency in a kernel: 1 / relative bandwidth."""
    step = 2.0 ** (2 / bins_per_octave)
    return (step + 1) / (step - 1)


def cqt_kernels(sr, centers_hz, bins_per_octave, decimation=1):
    """-> (n_fft, len(centers_hz)) complex columns that take n_fft samples around a frame to its CQT.

    `sr` is the recording's rate, the kernels run at sr / decimation; row n_fft // 2 sits on the frame's centre.
    Scaled as librosa.cqt (norm 1, scale=True): a full-scale sine has magnitude sqrt(kernel length at sr) / 2.
    librosa multiplies spectra of the kernel and keeps non-negative frequencies only; so do we, at sparsity 0.
    """
    rate = sr / decimation
    lengths = cqt_quality(bins_per_octave) * rate / np.asarray(centers_hz)
    n_fft = 2 ** int(np.ceil(np.log2(lengths.max())))
    kernels = np.empty((n_fft, len(lengths)), complex)
    for kernel, length, center_hz in zip(kernels.T, lengths, centers_hz):
        n = np.arange(-length // 2, length // 2)
        wavelet = hann(len(n)) * np.exp(2j * np.pi * center_hz / rate * n)
        wavelet /= np.abs(wavelet).sum()
        padded = np.zeros(n_fft, complex)
        start = (n_fft - len(n)) // 2
        padded[start : start + len(n)] = wavelet
        spectrum = np.fft.fft(padded)
        spectrum[n_fft // 2 + 1 :] = 0
        kernel[:] = np.fft.fft(spectrum) / n_fft * np.sqrt(length * decimation)
    return kernels  # dropping the negative half left tails beyond the window


def decimated_kernels(kernels, taps, factor):
    """(n, bands) around row n // 2 -> (m, bands) around row m // 2: the same product from every `factor`-th sample.

    The samples must have been low-passed by `taps`, which the kernels' bands have to lie within.
    """
    n, reach = len(kernels), len(taps) // 2
    before = -(-(n // 2 + reach) // factor)  # rows in front of the one at the centre
    n_fft = 2 * (before + 1) * factor
    padded = np.zeros((n_fft, kernels.shape[1]), complex)
    padded[:n] = kernels
    low_pass = np.zeros(n_fft)
    low_pass[: len(taps)] = taps
    smooth = np.fft.ifft(np.fft.fft(padded, axis=0) * np.fft.fft(low_pass)[:, None], axis=0)
    at = np.arange(-before, before + 1) * factor + n // 2 + reach  # of a circle as long as the sum needs
    return factor * smooth[at % n_fft]


def trimmed(kernels, tolerance):
    """(n, bands) around row n // 2 -> the fewest rows around it that leave out `tolerance` of a band's sum of magnitudes.

    Row len // 2 of the result is the one that was row n // 2.
    """
    magnitude, half = np.abs(kernels), len(kernels) // 2
    by_distance = magnitude[half::-1].copy()  # (half + 1, bands): distance 0, 1, ... from the centre
    by_distance[: len(kernels) - half] += magnitude[half:]
    outside = np.cumsum(by_distance[::-1], axis=0)[::-1] / by_distance.sum(axis=0)  # at this distance or farther
    keep = int((outside.max(axis=1) > tolerance).sum())  # distances
    return kernels[half + 1 - keep : half + keep]


HALVING_PASSBAND = 0.913  # of the new Nyquist
DECIMATION_PASSBAND = 0.82


def halving_filter():
    """-> (383,) low-pass of gain 1 before a 2:1 decimation: flat to 0.913 of the new Nyquist, -120 dB from it on.

    The taps of soxr's HQ, which librosa.cqt halves with: a sinc under a Kaiser window, its three numbers fitted to the
    impulse response of soxr.resample(x, 2, 1) to 4e-8. Any other filter differs by decibels in the cells just below an
    octave's end, whose kernels still hear the filter's transition.
    """
    cutoff, beta, half_width = 0.478436, 13.0401, 194.5  # cycles per two samples; Kaiser's shape; samples
    n = np.arange(-191, 192)
    return _kaiser_sinc(n, cutoff, beta, half_width)


def decimation_filter(factor):
    """-> (51 factor - 1,) low-pass of gain 1 before a decimation: flat to DECIMATION_PASSBAND of the new Nyquist, and

    -145 dB where what lies above it would fold to below it: a quiet band may lie 80 dB below a loud tone there.
    """
    half_width = 51 * factor / 2
    n = np.arange(51 * factor - 1) - (51 * factor - 1) // 2
    return _kaiser_sinc(n, 1 / factor, 15.0, half_width)


def _kaiser_sinc(n, cutoff, beta, half_width):
    taps = cutoff * np.sinc(cutoff * n) * np.i0(beta * np.sqrt(1 - (n / half_width) ** 2))
    return taps / taps.sum()
