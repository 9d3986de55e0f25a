import HMMLive
import Testing
